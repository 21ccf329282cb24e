"""Bases: one for all adapters made over it, on disk, on the host and on the device, and gone after
the last of them."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterStore, AdapterTooLarge, Arena, Limits
from motet_adapters.errors import AdapterLoadFailed
from motet_adapters.host_cache import HostCache
from motet_adapters.image import Image
from motet_adapters.residents import Slot
from torch import Tensor

from tests.support.adapter_files import PREFIX, AdapterFiles, random_adapter
from tests.support.base_weights import RandomBase

MODULES = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
RANK = 8


def vera(base: RandomBase, seed: int, *, key: int = 0, targets: str = "up_proj") -> AdapterFiles:
    """Adapters of one key share their projections."""
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for module in base.modules():
        if module.endswith(targets):
            n, _ = base.shape(module)
            tensors[f"{PREFIX}{module}.vera_lambda_b"] = torch.randn(n, generator=random)
            tensors[f"{PREFIX}{module}.vera_lambda_d"] = torch.randn(RANK, generator=random)
    config: dict[str, object] = {
        "peft_type": "VERA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "save_projection": False,
        "projection_prng_key": key,
        "target_modules": [targets],
    }
    return AdapterFiles(config, tensors)


@pytest.fixture
def base() -> RandomBase:
    return RandomBase.llama()


def open_store(root: Path, base: RandomBase, **how: object) -> AdapterStore:
    options = {"dtype": torch.float32, "limits": Limits(), "host_bytes": 1 << 24} | how
    return AdapterStore(root, base, **options)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path, base: RandomBase) -> Iterator[AdapterStore]:
    store = open_store(root, base)
    yield store
    store.close()


def bases_on_disk(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "bases").iterdir())


def test_two_adapters_share_one(store: AdapterStore, base: RandomBase, root: Path) -> None:
    one, two = (vera(base, seed).put(store, name=f"n{seed}") for seed in (1, 2))
    other = vera(base, 1, key=5).put(store, name="other")
    first, second, third = (store.image(adapter.digest) for adapter in (one, two, other))
    assert first.bases == second.bases
    assert first.bases != third.bases
    assert len(bases_on_disk(root)) == 2
    (digest,) = first.bases
    assert first.shared[digest] is second.shared[digest]
    a, b = (image.views(image.buffer)[MODULES[0]].tensors["a"] for image in (first, second))
    assert a.data_ptr() == b.data_ptr()
    assert one.image_bytes < first.shared[digest].num_bytes


def test_the_last_delete_takes_the_basis(store: AdapterStore, base: RandomBase, root: Path) -> None:
    for seed in (1, 2):
        vera(base, seed).put(store, name=f"n{seed}")
    assert len(bases_on_disk(root)) == 1
    store.delete("acme", "n1")
    assert len(bases_on_disk(root)) == 1
    store.delete("acme", "n2")
    assert bases_on_disk(root) == []
    assert list((root / "needs").iterdir()) == []


def test_it_is_found_again_after_a_restart(base: RandomBase, root: Path) -> None:
    store = open_store(root, base)
    digest = vera(base, 1).put(store).digest
    kept = store.image(digest)
    store.close()
    leftover = root / "bases" / bases_on_disk(root)[0].replace("0", "1")
    leftover.write_bytes(b"of nobody")
    again = open_store(root, base)
    assert not leftover.exists()
    image = again.image(digest)
    (basis,) = image.shared.values()
    (before,) = kept.shared.values()
    assert torch.equal(basis.buffer, before.buffer)
    assert torch.equal(image.buffer, kept.buffer)
    again.close()


@pytest.mark.parametrize("harm", ["missing", "damaged", "torn"])
def test_one_that_is_damaged_is_never_used_and_made_again(
    base: RandomBase, root: Path, harm: str
) -> None:
    store = open_store(root, base)
    digest = vera(base, 1).put(store).digest
    (kept,) = store.image(digest).shared.values()
    store.close()
    (path,) = (root / "bases").iterdir()
    content = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
    else:
        content[-100] ^= 1
        path.write_bytes(content if harm == "damaged" else content[:-100])
    again = open_store(root, base)
    (basis,) = again.image(digest).shared.values()
    assert torch.equal(basis.buffer, kept.buffer)
    again.close()
    third = open_store(root, base)
    assert len(bases_on_disk(root)) == 1
    assert third.image(digest).bases == {kept.digest}
    third.close()


def test_another_base_has_bases_of_its_own(base: RandomBase, root: Path) -> None:
    store = open_store(root, base)
    digest = vera(base, 1).put(store).digest
    before = bases_on_disk(root)
    store.close()
    other = open_store(root, RandomBase.llama(seed=9))
    assert bases_on_disk(root) == []
    assert len(other.image(digest).bases) == 1
    assert bases_on_disk(root) != before
    other.close()


def test_one_over_the_budget_is_refused_at_upload(base: RandomBase, root: Path) -> None:
    store = open_store(root, base, max_image_bytes=2000)
    with pytest.raises(AdapterTooLarge, match="shares with others"):
        vera(base, 1).put(store)
    assert bases_on_disk(root) == []
    store.close()


def test_the_host_cache_counts_it_once(store: AdapterStore, base: RandomBase) -> None:
    images = [store.image(vera(base, seed).put(store, name=f"n{seed}").digest) for seed in range(3)]
    (basis,) = images[0].shared.values()
    cache = HostCache(1 << 20)
    for image in images:
        cache.put(image)
    assert cache.num_bytes == basis.num_bytes + sum(image.num_bytes for image in images)
    for image in images:
        cache.discard(image.digest)
    assert cache.num_bytes == 0
    small = HostCache(basis.num_bytes)
    small.put(images[0])
    assert small.get(images[0].digest) is None


class Loading:
    """An arena whose loads can be waited for."""

    def __init__(
        self, store: AdapterStore, *, num_bytes: int = 1 << 20, num_slots: int = 8
    ) -> None:
        self.failing: set[str] = set()
        self._store = store
        self._ready = threading.Event()
        self.arena = Arena(
            self._image,
            num_bytes=num_bytes,
            num_slots=8,
            device=torch.device("cpu"),
            on_ready=self._ready.set,
        )

    def _image(self, digest: str) -> Image:
        if digest in self.failing:
            raise AdapterLoadFailed(digest, "made to fail")
        return self._store.image(digest)

    def acquire(self, digest: str) -> Slot:
        while True:
            self._ready.clear()
            slot = self.arena.acquire(digest)
            if slot is not None:
                return slot
            assert self._ready.wait(60)


def test_on_the_device_it_is_once_for_all_slots(store: AdapterStore, base: RandomBase) -> None:
    digests = [vera(base, seed).put(store, name=f"n{seed}").digest for seed in range(3)]
    loading = Loading(store)
    slots = [loading.acquire(digest) for digest in digests]
    tensors = [slot.views[MODULES[0]].tensors for slot in slots]
    assert len({found["a"].data_ptr() for found in tensors}) == 1
    assert len({found["core_values"].data_ptr() for found in tensors}) == 3
    for digest, slot in zip(digests, slots, strict=True):
        image = store.image(digest)
        for path, parts in image.views(image.buffer).items():
            for name, tensor in parts.tensors.items():
                assert torch.equal(slot.views[path].tensors[name], tensor)
    stats = loading.arena.stats()
    (basis,) = store.image(digests[0]).shared.values()
    assert basis.num_bytes <= stats.basis_bytes < basis.num_bytes + 256
    own = sum(store.image(digest).num_bytes for digest in digests)
    assert stats.used_bytes < stats.basis_bytes + own + 3 * 256
    for digest, slot in zip(digests, slots, strict=True):
        assert loading.arena.stats().basis_bytes
        loading.arena.release(slot)
        loading.arena.drop(digest)
    assert loading.arena.stats().basis_bytes == 0
    assert loading.arena.stats().used_bytes == 0
    loading.arena.close()


def test_loads_begun_together_wait_for_the_one_that_brings_it(
    store: AdapterStore, base: RandomBase
) -> None:
    digests = [vera(base, seed).put(store, name=f"n{seed}").digest for seed in range(6)]
    loading = Loading(store)
    for _ in range(2):  # the first trip learns the sizes, the second begins the loads
        for digest in digests:
            loading.arena.acquire(digest)
    for digest in digests:
        slot = loading.acquire(digest)
        image = store.image(digest)
        expected = image.views(image.buffer)[MODULES[1]].tensors["bt"]
        assert torch.equal(slot.views[MODULES[1]].tensors["bt"], expected)
    loading.arena.close()


def test_a_load_that_fails_leaves_no_basis_behind(store: AdapterStore, base: RandomBase) -> None:
    digest = vera(base, 1).put(store).digest
    loading = Loading(store)
    loading.arena.release(loading.acquire(digest))
    loading.arena.drop(digest)
    slot = loading.acquire(digest)  # its size is to be learnt again
    loading.arena.release(slot)
    vera(base, 2, key=1).put(store, name="other")
    other = store.get("acme", "other").digest
    loading.arena.release(loading.acquire(other))
    held = loading.arena.stats().used_bytes
    third = vera(base, 3, key=2).put(store, name="third").digest
    loading.arena.acquire(third)
    loading.failing.add(third)
    with pytest.raises(AdapterLoadFailed, match="made to fail"):
        loading.acquire(third)
    assert loading.arena.stats().used_bytes == held
    loading.failing.clear()
    loading.arena.release(loading.acquire(third))
    loading.arena.close()


def test_room_is_made_by_letting_the_last_users_of_another_go(
    store: AdapterStore, base: RandomBase
) -> None:
    mine = [vera(base, seed).put(store, name=f"n{seed}").digest for seed in range(2)]
    other = vera(base, 1, key=5).put(store, name="other").digest
    image = store.image(mine[0])
    (basis,) = image.shared.values()
    loading = Loading(store, num_bytes=basis.num_bytes + 3 * image.num_bytes + 2048)
    slots = [loading.acquire(digest) for digest in mine]
    loading.arena.acquire(other)  # learns its size
    for _ in range(20):
        assert loading.arena.acquire(other) is None  # both are in use, and so is their basis
    for slot in slots:
        loading.arena.release(slot)
    slot = loading.acquire(other)
    assert loading.arena.stats().num_evictions == 2
    tensors = slot.views[MODULES[0]].tensors
    expected = store.image(other).views(store.image(other).buffer)[MODULES[0]].tensors
    assert torch.equal(tensors["a"], expected["a"])
    loading.arena.close()


def test_one_too_large_for_the_device_is_a_clear_failure(
    store: AdapterStore, base: RandomBase
) -> None:
    digest = vera(base, 1).put(store).digest
    loading = Loading(store, num_bytes=2048)
    with pytest.raises(AdapterLoadFailed, match="shares with others"):
        loading.acquire(digest)
    loading.arena.close()


def test_a_thousand_tenants_take_less_than_fifty_of_lora(root: Path) -> None:
    base = RandomBase.llama(layers=1, hidden=1024, kv=16, ffn=16)
    store = open_store(root, base)
    shared = store.image(vera(base, 1, targets="q_proj").put(store, name="vera").digest)
    lora = random_adapter(base, targets=("q_proj",), rank=16).put(store, name="lora")
    (basis,) = shared.shared.values()
    assert 1000 * shared.num_bytes + basis.num_bytes < 50 * lora.image_bytes
    store.close()
