"""Any order of everything that can happen to the store, against a plain dictionary.

The dictionary says for each name which versions there are and which is served. After every step
the store says the same, serves exactly what is held, and holds nothing else on the disk.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from motet_adapters import (
    AdapterNotFound,
    AdapterStore,
    Arena,
    Condition,
    ConditionFailed,
    Lease,
    Limits,
    VersionNotFound,
)
from sqlalchemy import event

from tests.support.adapter_files import put_bytes, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.crashing_store import counting

BASE = RandomBase.llama(layers=1)
UPLOADS = [
    (files.config_bytes, files.weights_bytes)
    for files in (random_adapter(BASE, seed=seed, dora=seed == 2) for seed in range(4))
]
MAX_VERSIONS = 3
LIFETIME_S = 100
HOST_BYTES = 3000

# Few places and numbers, so that most steps find something there.
PLACES = st.sampled_from([("a", "x"), ("b", "x")])
UPLOAD = st.integers(0, 3)
MISSING = 99  # a number no version gets here
Place = tuple[str, str]


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Name:
    """number -> (upload, end), what is served, and the last number given."""

    versions: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    current: int = 0
    last: int = 0

    def copy(self) -> "Name":
        return Name(dict(self.versions), self.current, self.last)


Names = dict[Place, Name]


def put_into(names: Names, place: Place, upload: int, end: int | None) -> None:
    name = names.setdefault(place, Name())
    if name.versions.get(name.current) == (upload, end):
        return
    name.last += 1
    name.versions[name.last] = (upload, end)
    name.current = name.last
    for number in sorted(name.versions)[:-MAX_VERSIONS]:
        del name.versions[number]


def delete_from(names: Names, place: Place, number: int) -> None:
    name = names[place]
    del name.versions[number]
    if not name.versions:
        del names[place]
    elif name.current == number:
        name.current = max(name.versions)


class Model(RuleBasedStateMachine):
    directory: Path
    numbers: Iterator[int]
    digests: tuple[str, ...]
    done: Counter[str]  # what was done, where there was something to do

    @initialize()
    def begin(self) -> None:
        self.root = self.directory / str(next(self.numbers))
        self.clock = Clock()
        self.names: Names = {}
        self.held: list[Lease] = []
        self.open()

    def open(self) -> None:
        self.store = AdapterStore(
            self.root,
            BASE,
            dtype=torch.float32,
            limits=Limits(),
            host_bytes=HOST_BYTES,
            max_versions=MAX_VERSIONS,
            clock=self.clock,
        )
        self.arena = Arena(
            self.store.image, num_bytes=1 << 16, num_slots=8, device=torch.device("cpu")
        )
        self.store.on_removed(self.arena.drop)

    def close(self) -> None:
        """Leases that were not released are swept at the next start."""
        self.arena.close()
        self.store.close()
        self.held.clear()

    @rule(data=st.data())
    def do_one(self, data: st.DataObject) -> None:
        """One of those that find something to do. As rules of their own many would hardly ever
        run: Hypothesis leaves out about half of a machine's rules in each run."""
        deed = data.draw(st.sampled_from([deed for deed in DEEDS if deed.needs(self)]))
        deed.do(self, data)

    def put(self, data: st.DataObject) -> None:
        place = data.draw(PLACES)
        upload, ends = data.draw(UPLOAD), data.draw(st.sampled_from([False, True, True]))
        self.drop_expired(place)
        end = int(self.clock.now) + LIFETIME_S if ends else None
        self.done["put"] += 1
        self.publish(self.store, place, upload, end)
        put_into(self.names, place, upload, end)

    def replace_if(self, data: st.DataObject) -> None:
        """If-Match: only what serves that upload is replaced."""
        place, upload, is_other = (
            self.draw_served(data),
            data.draw(UPLOAD),
            data.draw(st.booleans()),
        )
        served = self.served(place)
        assert served is not None
        expected = self.digests[(served + is_other) % 4]
        condition = Condition(match=frozenset({expected}))
        if is_other:
            with pytest.raises(ConditionFailed):
                self.publish(self.store, place, upload, None, condition)
            return
        self.done["replace"] += 1
        self.publish(self.store, place, upload, None, condition)
        put_into(self.names, place, upload, None)

    def roll_back(self, data: st.DataObject) -> None:
        place = self.draw_served(data)
        known = self.names[place]
        number = data.draw(st.sampled_from([*known.versions, MISSING]))
        if number == MISSING or self.is_over(known.versions[number][1]):
            with pytest.raises(VersionNotFound):
                self.store.roll_back(*place, number)
            return
        self.done["roll back"] += known.current != number
        assert self.store.roll_back(*place, number).number == number
        known.current = number

    def delete(self, data: st.DataObject) -> None:
        place = self.draw_served(data)
        self.done["delete"] += 1
        self.store.delete(*place)
        del self.names[place]

    def delete_version(self, data: st.DataObject) -> None:
        place = self.draw_served(data)
        number = data.draw(st.sampled_from([*self.names[place].versions, MISSING]))
        if number == MISSING:
            with pytest.raises(VersionNotFound):
                self.store.delete_version(*place, number)
            return
        self.done["delete version"] += 1
        self.store.delete_version(*place, number)
        self.take_out(place, number)

    def miss(self, data: st.DataObject) -> None:
        """What is not there, or has ended, is not found by anything."""
        tenant, name = data.draw(PLACES)
        if self.served((tenant, name)) is not None:
            name = "nobodys"
        for ask in (
            self.store.get,
            self.store.lease,
            self.store.versions,
            self.store.roll_back,
            self.store.delete,
        ):
            with pytest.raises(AdapterNotFound):
                ask(tenant, name)

    def take_out(self, place: Place, number: int) -> None:
        known = self.names[place]
        was_current = known.current == number
        delete_from(self.names, place, number)
        alive = [n for n, (_, end) in known.versions.items() if not self.is_over(end)]
        if was_current and alive:
            known.current = max(alive)

    def delete_tenant(self, data: st.DataObject) -> None:
        tenant = data.draw(st.sampled_from(sorted({owner for owner, _ in self.names})))
        self.done["delete tenant"] += 1
        self.store.delete_tenant(tenant)
        for place in [place for place in self.names if place[0] == tenant]:
            del self.names[place]

    def lease(self, data: st.DataObject) -> None:
        place = self.draw_served(data)
        lease = self.store.lease(*place)
        upload = self.served(place)
        assert upload is not None
        assert lease.adapter.digest == self.digests[upload]
        self.done["lease"] += 1
        self.held.append(lease)
        self.run_on(lease.adapter.digest)

    def run_on(self, digest: str) -> None:
        """One step on the device."""
        deadline = time.monotonic() + 60
        while (slot := self.arena.acquire(digest)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        self.arena.release(slot)

    def release(self, data: st.DataObject) -> None:
        lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        lease.release()
        self.done["last use ends"] += lease.adapter.digest not in self.in_use()

    def time_passes(self, data: st.DataObject) -> None:
        self.clock.now += data.draw(st.sampled_from([1, LIFETIME_S]))

    def sweep(self, _: st.DataObject) -> None:
        self.done["sweep"] += 1
        self.store.expire()
        for place, known in list(self.names.items()):
            if self.served(place) is None:
                del self.names[place]
                continue
            for number, (_, end) in list(known.versions.items()):
                if self.is_over(end):
                    del known.versions[number]

    def restart(self, _: st.DataObject) -> None:
        self.done["restart"] += 1
        self.close()
        self.open()

    def crash_in_put(self, data: st.DataObject) -> None:
        place, upload = data.draw(PLACES), data.draw(UPLOAD)
        self.drop_expired(place)
        after = self.copied()
        put_into(after, place, upload, None)

        def work(store: AdapterStore) -> object:
            return self.publish(store, place, upload, None)

        self.crash("put", work, after, data.draw(st.integers(1, 60)))

    def crash_in_change(self, data: st.DataObject) -> None:
        place = self.draw_served(data)
        after = self.copied()
        deed = data.draw(st.sampled_from(["delete", "delete tenant", "roll back"]))
        known = after[place]
        oldest = min(n for n, (_, end) in known.versions.items() if not self.is_over(end))
        if deed == "roll back":
            known.current = oldest
        else:
            del after[place]
        work: dict[str, Callable[[AdapterStore], object]] = {
            "delete": lambda store: store.delete(*place),
            "delete tenant": lambda store: store.delete_tenant(place[0]),
            "roll back": lambda store: store.roll_back(*place, oldest),
        }
        self.crash(deed, work[deed], after, data.draw(st.integers(1, 5)))

    def crash(
        self, deed: str, work: Callable[[AdapterStore], object], after: Names, operation: int
    ) -> None:
        """A process killed before its n-th file operation or commit: all of the deed or none."""
        self.close()

        def die() -> None:
            self.open()
            die_at(self.store, operation)
            work(self.store)
            os._exit(0)

        status = in_child(die)
        self.open()
        if not agree(self.store, self.digests, self.visible(self.names)):
            self.names = after
        assert status in (0, 9)
        self.done["crash"] += status == 9
        self.done[f"crash in {deed}"] += status == 9
        if status == 0:
            assert agree(self.store, self.digests, self.visible(after))
            self.names = after

    def publish(
        self,
        store: AdapterStore,
        place: Place,
        upload: int,
        end: int | None,
        condition: Condition | None = None,
    ) -> None:
        config, weights = UPLOADS[upload]
        how = {"expires_at": end, "condition": condition or Condition()}
        put_bytes(store, config, weights, *place, **how)

    def copied(self) -> Names:
        return {place: one.copy() for place, one in self.names.items()}

    def draw_served(self, data: st.DataObject) -> Place:
        return data.draw(st.sampled_from(self.any_served()))

    def any_served(self) -> list[Place]:
        return sorted(place for place in self.names if self.served(place) is not None)

    def any_over(self) -> bool:
        return any(
            self.is_over(end) for known in self.names.values() for _, end in known.versions.values()
        )

    def in_use(self) -> set[str]:
        """Digests that a version or a lease holds."""
        named = {
            self.digests[upload]
            for known in self.names.values()
            for upload, _ in known.versions.values()
        }
        return named | {lease.adapter.digest for lease in self.held}

    def is_over(self, end: int | None) -> bool:
        return end is not None and end <= self.clock.now

    def served(self, place: Place) -> int | None:
        """The upload that the name serves."""
        known = self.names.get(place)
        if known is None or self.is_over(known.versions[known.current][1]):
            return None
        return known.versions[known.current][0]

    def drop_expired(self, place: Place) -> None:
        """Publishing takes a name that has expired as free."""
        if self.served(place) is None:
            self.names.pop(place, None)

    def visible(self, names: Names) -> Names:
        return {
            place: known
            for place, known in names.items()
            if not self.is_over(known.versions[known.current][1])
        }

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        assert agree(self.store, self.digests, self.visible(self.names))
        self.done["step"] += 1
        held = self.in_use()
        eventually_on_disk(self.root, held)
        for digest in held:
            assert self.store.image(digest).digest == digest
        assert self.store._host.num_bytes <= HOST_BYTES
        deadline = time.monotonic() + 60
        while not set(self.arena._residents._by_digest) <= held:
            assert time.monotonic() < deadline, "a deleted adapter keeps its place on the device"
            time.sleep(0.002)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.close()


class Deed(NamedTuple):
    do: Callable[[Model, st.DataObject], None]
    needs: Callable[[Model], object] = lambda _: True

    def __repr__(self) -> str:
        return self.do.__name__


DEEDS = (
    *[Deed(Model.put)] * 3,
    Deed(Model.replace_if, Model.any_served),
    Deed(Model.roll_back, Model.any_served),
    Deed(Model.delete, Model.any_served),
    Deed(Model.delete_version, Model.any_served),
    Deed(Model.miss),
    Deed(Model.delete_tenant, lambda model: model.names),
    *[Deed(Model.lease, Model.any_served)] * 2,
    *[Deed(Model.release, lambda model: model.held)] * 2,
    Deed(Model.time_passes),
    Deed(Model.sweep, Model.any_over),
    Deed(Model.restart, lambda model: model.names),
    Deed(Model.crash_in_put),
    Deed(Model.crash_in_change, Model.any_served),
)


def agree(store: AdapterStore, digests: tuple[str, ...], names: Names) -> bool:
    """Whether the store says of every name what the dictionary says."""
    for tenant in "ab":
        if {one.name for one in store.list(tenant)} != {n for t, n in names if t == tenant}:
            return False
    for (tenant, name), known in names.items():
        found = store.versions(tenant, name)
        if found.current.number != known.current:
            return False
        said = {one.number: (one.digest, one.expires_at) for one in found.all}
        expected = {n: (digests[upload], end) for n, (upload, end) in known.versions.items()}
        if said != expected:
            return False
    return True


def eventually_on_disk(root: Path, expected: set[str]) -> None:
    """The bytes of the last lease are removed by another thread, soon after."""
    deadline = time.monotonic() + 60
    while True:
        sources = {path.name for path in (root / "sources").iterdir()}
        images = {path.name.partition(".")[0] for path in (root / "images").iterdir()}
        if sources == expected and images <= expected and not any((root / "staging").iterdir()):
            return
        assert time.monotonic() < deadline, (sources, images, expected)
        time.sleep(0.002)


def die_at(store: AdapterStore, number: int) -> None:
    """Be killed before this process's file operation or commit of that number from now on."""
    num_done = 0

    def on_any(*_: object) -> None:
        nonlocal num_done
        num_done += 1
        if num_done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    counting(on_any)
    event.listen(store._registry._database._writing, "commit", on_any)


def in_child(work: Callable[[], None]) -> int:
    """The signal that ended a forked process, or 0; 1 for an exception, which it prints."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    return abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def test_model(tmp_path: Path) -> None:
    # Children are forked: a pool of threads would not be there in them.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    store = AdapterStore(
        tmp_path / "digests", BASE, dtype=torch.float32, limits=Limits(), host_bytes=0
    )
    Model.digests = tuple(put_bytes(store, *upload).digest for upload in UPLOADS)
    store.close()
    Model.directory = tmp_path
    Model.done = Counter()
    Model.numbers = iter(range(10_000))
    try:
        run_state_machine_as_test(
            Model,
            settings=settings(
                max_examples=20,
                stateful_step_count=50,
                deadline=None,
                derandomize=True,
                database=None,
            ),
        )
    finally:
        torch.set_num_threads(num_threads)
    # Not only steps, but each kind of them, and each with something to do.
    assert Model.done["step"] >= 500, Model.done
    kinds = ("put", "replace", "roll back", "delete", "delete version", "delete tenant", "lease")
    crashes = [f"crash in {deed}" for deed in ("put", "delete", "roll back", "delete tenant")]
    for kind in (*kinds, "last use ends", "sweep", "restart", "crash", *crashes):
        assert Model.done[kind] >= 1, (kind, Model.done)
