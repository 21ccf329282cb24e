"""The device tier: pins, least recently used, generations, failures, and right bytes throughout."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from motet_adapters import AdapterLoadFailed, AdapterRefused, Arena, Image, Slot

from tests.support.images import digest, random_image

CPU = torch.device("cpu")
SIZE = 768  # of a rank-2 image in the arena, a multiple of its alignment of 256


def arena_of(
    images: Callable[[str], Image],
    *,
    fits: int = 3,
    num_slots: int = 8,
    on_ready: Callable[[], None] = lambda: None,
) -> Arena:
    return Arena(images, num_bytes=fits * SIZE, num_slots=num_slots, device=CPU, on_ready=on_ready)


def library(*names: object, rank: int = 2) -> Callable[[str], Image]:
    images = {digest(name): random_image(name, rank=rank) for name in names}
    return images.__getitem__


def settled(arena: Arena) -> None:
    deadline = time.monotonic() + 60
    while arena.stats().loading:
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def brought(arena: Arena, name: object) -> Slot:
    """Acquire, as an engine does that has nothing else to do."""
    for _ in range(10):
        slot = arena.acquire(digest(name))
        if slot is not None:
            return slot
        settled(arena)
    raise AssertionError("the adapter did not become resident")


@contextmanager
def closing(arena: Arena) -> Iterator[Arena]:
    try:
        yield arena
    finally:
        arena.close()


def test_a_slot_holds_the_bytes_of_its_image() -> None:
    with closing(arena_of(library("a"))) as arena:
        assert arena.acquire(digest("a")) is None
        slot = brought(arena, "a")
        require_bytes(slot, random_image("a"))
        assert slot.index >= 1
        assert arena.acquire(digest("a")) is slot
        stats = arena.stats()
        assert (stats.resident, stats.loading, stats.pinned) == (1, 0, 1)
        assert (stats.num_loads, stats.num_hits, stats.num_evictions) == (1, 1, 0)
        assert (stats.used_bytes, stats.budget_bytes) == (SIZE, 3 * SIZE)


def require_bytes(slot: Slot, image: Image) -> None:
    expected = image.views(image.buffer)
    assert set(slot.views) == set(expected)
    for module, parts in expected.items():
        assert slot.views[module].tensors.keys() == parts.tensors.keys()
        for part, tensor in parts.tensors.items():
            assert torch.equal(slot.views[module].tensors[part], tensor)


def test_the_least_recently_used_unpinned_leaves() -> None:
    with closing(arena_of(library(*"abcd"))) as arena:
        a, b, c = (brought(arena, name) for name in "abc")
        arena.release(b)
        arena.release(a)
        d = brought(arena, "d")
        assert arena.stats().num_evictions == 1
        assert (d.index, d.generation) == (b.index, b.generation + 1)
        assert arena.acquire(digest("a")) is a
        assert arena.acquire(digest("c")) is c
        assert arena.acquire(digest("b")) is None
        assert arena.stats().num_evictions == 1


def test_all_pinned_means_not_this_step_and_no_load() -> None:
    with closing(arena_of(library(*"abcd"))) as arena:
        slots = [brought(arena, name) for name in "abc"]
        for _ in range(5):
            assert arena.acquire(digest("d")) is None
            settled(arena)
        stats = arena.stats()
        assert (stats.resident, stats.pinned, stats.num_loads) == (3, 3, 3)
        arena.release(slots[0])
        assert brought(arena, "d").index == slots[0].index


def test_a_pin_for_every_acquire() -> None:
    with closing(arena_of(library("a"))) as arena:
        slot = brought(arena, "a")
        assert arena.acquire(digest("a")) is slot
        arena.release(slot)
        assert arena.stats().pinned == 1
        arena.release(slot)
        assert arena.stats().pinned == 0
        with pytest.raises(ValueError, match="more often"):
            arena.release(slot)


def test_a_slot_of_an_earlier_residence_is_not_released() -> None:
    with closing(arena_of(library("a", "b"), fits=1)) as arena:
        old = brought(arena, "a")
        arena.release(old)
        arena.release(brought(arena, "b"))
        new = brought(arena, "a")
        assert (new.index, new.generation) == (old.index, old.generation + 2)
        with pytest.raises(ValueError, match="more often"):
            arena.release(old)
        arena.release(new)


def test_slots_run_out_before_bytes() -> None:
    with closing(arena_of(library(*"abc"), num_slots=2)) as arena:
        a, b = brought(arena, "a"), brought(arena, "b")
        assert arena.acquire(digest("c")) is None
        settled(arena)
        assert arena.acquire(digest("c")) is None
        arena.release(b)
        assert brought(arena, "c").index == b.index
        assert arena.acquire(digest("a")) is a


def test_nobody_is_evicted_when_that_would_not_make_room() -> None:
    small, large = library(*"abc"), random_image("large", rank=4)

    def images(wanted: str) -> Image:
        return large if wanted == large.digest else small(wanted)

    with closing(arena_of(images)) as arena:
        a, b, c = (brought(arena, name) for name in "abc")
        # The middle stays: two holes of one size each never become room for two.
        arena.release(a)
        arena.release(c)
        for _ in range(4):
            assert arena.acquire(large.digest) is None
            settled(arena)
        assert arena.stats().num_evictions == 0
        arena.release(b)
        assert brought(arena, "large").digest == large.digest
        # Only the two that had to: b, and the less recently used of its neighbours.
        assert arena.stats().num_evictions == 2
        assert arena.acquire(c.digest) is c


def test_an_adapter_larger_than_the_arena() -> None:
    with closing(arena_of(library("a", rank=64))) as arena:
        assert arena.acquire(digest("a")) is None
        settled(arena)
        with pytest.raises(AdapterLoadFailed, match="smaller rank") as caught:
            arena.acquire(digest("a"))
        assert caught.value.digest == digest("a")


def test_a_failed_load_is_told_once_and_then_tried_again() -> None:
    failures: list[Exception] = [
        AdapterRefused("bad tensor"),
        OSError("/secret/path"),
    ]

    def images(wanted: str) -> Image:
        if failures:
            raise failures.pop(0)
        return random_image("a")

    with closing(arena_of(images)) as arena:
        for message in ("bad tensor", "could not be loaded"):
            assert arena.acquire(digest("a")) is None
            settled(arena)
            with pytest.raises(AdapterLoadFailed, match=message) as caught:
                arena.acquire(digest("a"))
            assert "secret" not in caught.value.message
        slot = brought(arena, "a")
        assert arena.stats().num_failures == 2
        require_bytes(slot, random_image("a"))


def test_a_failure_after_the_size_is_known_gives_the_room_back() -> None:
    answers: list[Image | Exception] = [random_image("a"), OSError("gone"), random_image("a")]

    def images(wanted: str) -> Image:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    with closing(arena_of(images, fits=1, num_slots=1)) as arena:
        assert arena.acquire(digest("a")) is None
        settled(arena)
        assert arena.acquire(digest("a")) is None
        settled(arena)
        assert arena.stats().used_bytes == 0
        with pytest.raises(AdapterLoadFailed):
            arena.acquire(digest("a"))
        require_bytes(brought(arena, "a"), random_image("a"))


def test_a_load_in_progress_is_invisible_and_keeps_its_room() -> None:
    gate = threading.Event()
    calls: list[str] = []

    def images(wanted: str) -> Image:
        calls.append(wanted)
        if wanted == digest("a") and calls.count(wanted) == 2:
            assert gate.wait(60)
        return random_image("a" if wanted == digest("a") else "b")

    with closing(arena_of(images, fits=1)) as arena:
        assert arena.acquire(digest("a")) is None
        settled(arena)
        for _ in range(3):  # its copy waits at the gate
            assert arena.acquire(digest("a")) is None
        assert arena.acquire(digest("b")) is None
        time.sleep(0.05)
        assert arena.acquire(digest("b")) is None
        stats = arena.stats()
        assert (stats.resident, stats.num_evictions, stats.used_bytes) == (0, 0, SIZE)
        gate.set()
        require_bytes(brought(arena, "a"), random_image("a"))


def test_on_ready_is_called_for_every_end_of_a_load() -> None:
    calls: list[str] = []
    ready = threading.Semaphore(0)

    def note() -> None:
        calls.append(threading.current_thread().name)
        ready.release()

    with closing(arena_of(library("a"), on_ready=note)) as arena:
        arena.acquire(digest("a"))
        assert ready.acquire(timeout=60)
        arena.acquire(digest("a"))
        assert ready.acquire(timeout=60)
        assert arena.acquire(digest("a")) is not None
        arena.acquire(digest("missing"))
        assert ready.acquire(timeout=60)
    assert len(calls) == 3
    assert all(name.startswith("motet-arena") for name in calls)


def test_an_arena_needs_room_and_slots() -> None:
    with pytest.raises(ValueError, match="an arena needs"):
        Arena(library(), num_bytes=100, num_slots=1, device=CPU)
    with pytest.raises(ValueError, match="an arena needs"):
        Arena(library(), num_bytes=1000, num_slots=0, device=CPU)


@pytest.mark.parametrize("seed", range(3))
def test_two_hundred_adapters_through_room_for_eight(seed: int) -> None:
    """Random acquires and releases of adapters of mixed ranks; every view is right every time."""
    chance = random.Random(seed)
    images = {
        digest(name): random_image(name, rank=chance.choice([1, 2, 4, 8]), gain=name % 2 == 0)
        for name in range(200)
    }
    names = list(images)
    held: list[Slot] = []
    seen: dict[int, int] = {}
    with closing(Arena(images.__getitem__, num_bytes=8 * 2048, num_slots=8, device=CPU)) as arena:
        for _ in range(4000):
            if held and chance.random() < 0.35:
                slot = held.pop(chance.randrange(len(held)))
                require_bytes(slot, images[slot.digest])
                arena.release(slot)
                continue
            slot = arena.acquire(chance.choice(names[:20] if chance.random() < 0.8 else names))
            if slot is None:
                time.sleep(0.0002)
                continue
            require_bytes(slot, images[slot.digest])
            assert seen.get(slot.index, 0) <= slot.generation
            seen[slot.index] = slot.generation
            held.append(slot)
        require_disjoint(held)
        for slot in held:
            require_bytes(slot, images[slot.digest])
        stats = arena.stats()
        assert stats.num_evictions > 50
        assert stats.num_failures == 0
        assert min(seen) >= 1
        assert max(seen) <= 8
        for slot in held:
            arena.release(slot)
        assert arena.stats().pinned == 0


def require_disjoint(slots: list[Slot]) -> None:
    by_digest = {slot.digest: slot for slot in slots}
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
        for slot in by_digest.values()
        for parts in slot.views.values()
        for tensor in parts.tensors.values()
    )
    assert len({slot.index for slot in by_digest.values()}) == len(by_digest)
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start


def test_stats_from_another_thread_while_loading() -> None:
    stop = threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not stop.is_set():
            stats = arena.stats()
            seen.append(stats.pinned)
            assert stats.pinned <= stats.resident
            assert 0 <= stats.used_bytes <= stats.budget_bytes

    with closing(arena_of(library(*range(20)))) as arena:
        watcher = threading.Thread(target=watch)
        watcher.start()
        for name in range(20):
            arena.release(brought(arena, name))
        stop.set()
        watcher.join(60)
    assert seen


def test_a_dropped_adapter_gives_its_room_back() -> None:
    with closing(arena_of(library(1, 2))) as arena:
        arena.release(brought(arena, 1))
        running = brought(arena, 2)
        assert arena.acquire(digest(2)) is running
        arena.drop(digest(1))
        assert (arena.stats().resident, arena.stats().used_bytes) == (1, SIZE)
        arena.drop(digest(2))
        arena.drop(digest("never here"))
        arena.release(running)
        assert arena.stats().used_bytes == SIZE  # one step still runs on it
        arena.release(running)
        assert (arena.stats().resident, arena.stats().used_bytes) == (0, 0)
        # Uploaded again it is loaded again.
        arena.release(brought(arena, 1))
        assert arena.stats().resident == 1


def test_an_adapter_dropped_while_it_is_loading_does_not_stay() -> None:
    reading, go = threading.Event(), threading.Event()
    images = library(1)

    def slow(name: str) -> Image:
        reading.set()
        assert go.wait(60)
        return images(name)

    with closing(arena_of(slow)) as arena:
        go.set()
        arena.release(brought(arena, 1))
        arena.drop(digest(1))
        for ask_again in (False, True):
            for _ in range(2):  # the trip that learns its size, and the one that copies it
                go.clear()
                reading.clear()
                assert arena.acquire(digest(1)) is None
                assert reading.wait(60)
                if not ask_again:
                    break
                arena.drop(digest(1))
                assert arena.acquire(digest(1)) is None
                go.set()
                settled(arena)
            if not ask_again:
                arena.drop(digest(1))
                go.set()
                settled(arena)
            assert (arena.stats().resident, arena.stats().used_bytes) == (
                (1, SIZE) if ask_again else (0, 0)
            )


def test_a_failure_of_a_dropped_adapter_is_forgotten() -> None:
    reading, go = threading.Event(), threading.Event()

    def failing(name: str) -> Image:
        reading.set()
        assert go.wait(60)
        raise AdapterRefused("gone")

    with closing(arena_of(failing)) as arena:
        assert arena.acquire(digest(1)) is None
        assert reading.wait(60)
        arena.drop(digest(1))
        go.set()
        settled(arena)
        assert arena.acquire(digest(1)) is None
        settled(arena)
        with pytest.raises(AdapterLoadFailed):
            arena.acquire(digest(1))
