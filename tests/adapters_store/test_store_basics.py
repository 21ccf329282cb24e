"""The life of an adapter: put, list, lease, run, replace, delete."""

import time
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterNotFound, AdapterStore, Arena, Limits, Slot

from tests.support.adapter_files import random_adapter
from tests.support.base_weights import RandomBase


def opened(root: Path, base: RandomBase, dtype: torch.dtype = torch.float32) -> AdapterStore:
    return AdapterStore(root, base, dtype=dtype, limits=Limits(), host_bytes=1 << 24)


def wait_for(arena: Arena, digest: str) -> Slot:
    deadline = time.monotonic() + 10
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
        for module, views in image.views(image.buffer).items():
            for expected, actual in zip(views, slot.views[module], strict=True):
                assert expected is not None
                assert actual is not None
                assert torch.equal(expected, actual)
        store.delete("acme", "one")
        arena.release(slot)
    arena.close()
    with pytest.raises(AdapterNotFound):
        store.lease("acme", "one")
    store.close()
    assert not list((tmp_path / "sources").iterdir())
