"""From uploaded bytes to a slot: store and arena together."""

import pickle
import random
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from motet_adapters import (
    AdapterNotFound,
    AdapterRefused,
    AdapterStore,
    AdapterTooLarge,
    Arena,
    Limits,
    Slot,
)

from tests.support.adapter_files import put_bytes, random_adapter
from tests.support.base_weights import RandomBase


def opened(root: Path, base: RandomBase, dtype: torch.dtype = torch.float32) -> AdapterStore:
    return AdapterStore(root, base, dtype=dtype, limits=Limits(), host_bytes=1 << 24)


def wait_for(arena: Arena, digest: str) -> Slot:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        slot = arena.acquire(digest)
        if slot is not None:
            return slot
        time.sleep(0.001)
    raise AssertionError("the adapter did not become resident")


def test_put_get_lease_acquire_delete(tmp_path: Path) -> None:
    base = RandomBase.llama()
    store = opened(tmp_path, base)
    adapter = random_adapter(base, dora=True).put(store)
    assert adapter.kind == "dora"
    assert adapter.matched == {"q_proj": 2, "v_proj": 2}
    assert store.list("acme") == [adapter]
    assert store.list("other") == []
    with pytest.raises(AdapterNotFound):
        store.get("other", "one")
    arena = Arena(store.image, num_bytes=1 << 20, num_slots=4, device=torch.device("cpu"))
    with store.lease("acme", "one") as lease:
        slot = wait_for(arena, lease.adapter.digest)
        assert slot.index >= 1
        image = store.image(adapter.digest)
        for module, parts in image.views(image.buffer).items():
            assert parts.tensors.keys() == slot.views[module].tensors.keys()
            for part, expected in parts.tensors.items():
                assert torch.equal(expected, slot.views[module].tensors[part])
        store.delete("acme", "one")
        arena.release(slot)
    arena.close()
    with pytest.raises(AdapterNotFound):
        store.lease("acme", "one")
    store.close()
    assert not list((tmp_path / "sources").iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_image_has_the_asked_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    base = RandomBase.llama(layers=1)
    store = opened(tmp_path, base, dtype)
    files = random_adapter(base, rank=3, alpha=6, dora=True)
    adapter = files.put(store)
    image = store.image(adapter.digest)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = image.views(image.buffer)["model.layers.0.self_attn.q_proj"].tensors
    a, bt, gain = tensors["a"], tensors["bt"], tensors["gain"]
    assert a.dtype == bt.dtype == gain.dtype == dtype
    assert torch.equal(a, files.tensors[f"{prefix}.lora_A.weight"].to(dtype))
    assert torch.equal(bt, (files.tensors[f"{prefix}.lora_B.weight"] * 2).t().to(dtype))
    assert adapter.image_bytes == image.num_bytes
    store.close()


def test_two_hundred_adapters_with_room_for_eight(tmp_path: Path) -> None:
    """Every row of a random load sees the bytes of the adapter it leased, and no other's."""
    base = RandomBase.llama(layers=1)
    store = opened(tmp_path, base)
    for number in range(200):
        files = random_adapter(
            base, rank=1 + number % 4, dora=number % 3 == 0, seed=number, targets=("q_proj",)
        )
        files.put(store, f"tenant{number % 7}", f"adapter{number}")
    largest = max(a.image_bytes for tenant in range(7) for a in store.list(f"tenant{tenant}"))
    arena = Arena(store.image, num_bytes=8 * largest, num_slots=8, device=torch.device("cpu"))
    chance = random.Random(0)
    order = [chance.randrange(200) for _ in range(300)]
    waiting = [store.lease(f"tenant{number % 7}", f"adapter{number}") for number in order]
    running: list[tuple[Slot, int]] = []
    num_served = 0
    deadline = time.monotonic() + 60
    while waiting or running:
        assert time.monotonic() < deadline
        for lease in waiting[:12]:
            slot = arena.acquire(lease.adapter.digest)
            if slot is not None:
                waiting.remove(lease)
                running.append((slot, chance.randrange(1, 5)))
                lease.release()
        for slot, steps in running:
            image = store.image(slot.digest)
            expected = image.views(image.buffer)["model.layers.0.self_attn.q_proj"].tensors
            actual = slot.views["model.layers.0.self_attn.q_proj"].tensors
            assert expected.keys() == actual.keys()
            assert all(torch.equal(expected[part], actual[part]) for part in expected)
            if steps == 0:
                arena.release(slot)
                num_served += 1
        running = [(slot, steps - 1) for slot, steps in running if steps]
        assert arena.stats().resident <= 8
        time.sleep(0.0005)
    stats = arena.stats()
    assert num_served == 300
    assert (stats.pinned, stats.loading, stats.num_failures) == (0, 0, 0)
    arena.close()
    store.close()


def test_magnitudes_may_carry_weight_in_their_names(tmp_path: Path) -> None:
    """PEFT writes lora_magnitude_vector and loads lora_magnitude_vector.weight as well."""
    base = RandomBase.llama(layers=1)
    store = opened(tmp_path, base)
    files = random_adapter(base, dora=True)
    image = store.image(files.put(store).digest)
    for name in list(files.tensors):
        if name.endswith("lora_magnitude_vector"):
            files.tensors[f"{name}.weight"] = files.tensors.pop(name)
    renamed = store.image(files.put(store, name="two").digest)
    assert renamed.digest != image.digest
    assert torch.equal(renamed.buffer, image.buffer)
    store.close()


def test_lowered_limits_do_not_take_away_what_was_accepted(tmp_path: Path) -> None:
    base = RandomBase.llama(layers=1)
    store = opened(tmp_path, base)
    files = random_adapter(base, rank=8)
    adapter = files.put(store)
    store.close()
    limits = Limits(max_rank=4, max_config_bytes=10, max_header_bytes=10, max_upload_bytes=10)
    # Another dtype, so that the image has to be made again.
    store = AdapterStore(tmp_path, base, dtype=torch.bfloat16, limits=limits, host_bytes=0)
    assert store.image(adapter.digest).dtype == torch.bfloat16
    with pytest.raises(AdapterTooLarge):
        files.put(store)
    store.close()


@pytest.mark.parametrize("field", ["max_rank", "max_upload_bytes", "max_config_bytes"])
def test_limits_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 0})


def test_a_lease_never_waits_for_the_disk(tmp_path: Path) -> None:
    base = RandomBase.llama(layers=1)
    store = opened(tmp_path, base)
    random_adapter(base).put(store)
    taken: list[str] = []

    def work() -> None:
        with store.lease("acme", "one") as lease:
            taken.append(store.get("acme", "one").digest)
            taken.extend(adapter.digest for adapter in store.list("acme"))
            taken.append(lease.adapter.digest)

    with store._writer, store._lowering._lock:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
    assert len(taken) == 3
    store.close()


def test_an_upload_runs_no_code_of_the_uploader(tmp_path: Path) -> None:
    """No unpickling, no process, no connection, whatever is uploaded."""
    watched = ("pickle.find_class", "os.system", "subprocess.Popen", "socket.connect", "os.exec")
    seen: list[str] = []
    is_watching = True

    def hook(event: str, arguments: object) -> None:
        if is_watching and event.startswith(watched):
            seen.append(event)

    base = RandomBase.llama(layers=1)
    store = opened(tmp_path, base)
    files = random_adapter(base, dora=True)
    sys.addaudithook(hook)
    files.put(store)
    bomb = pickle.dumps(Bomb())
    for config, weights in ((files.config_bytes, bomb), (bomb, files.weights_bytes)):
        with pytest.raises(AdapterRefused):
            put_bytes(store, config, weights)
    is_watching = False
    store.close()
    assert seen == []


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('run')",))
