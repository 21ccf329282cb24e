"""Several adapters as one: the weighted sum of what each changes, or a refusal by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from motet_adapters.composition import Member, compose
from motet_adapters.families import PartSpec, SitePlan
from motet_adapters.image import Image, Layout, SiteParts, views_into
from motet_kernels import Core, LowRank
from motet_kernels.lowrank import SlotTable
from motet_kernels.reference import ReferenceOps
from motet_kernels.routing import Routing
from torch import Tensor

from tests.support.adapter_files import random_adapter
from tests.support.base_weights import RandomBase

K, N = 12, 20
PATH = "model.layers.0.self_attn.q_proj"
BASE = RandomBase.llama()
CPU = torch.device("cpu")


def image(name: str, path: str = PATH, activation: str = "identity", **parts: Tensor) -> Image:
    specs = {
        part: PartSpec(tuple(value.shape), None if value.is_floating_point() else value.dtype)
        for part, value in parts.items()
    }
    site = SitePlan(path, {}, specs, lambda _read: parts, activation)  # type: ignore[arg-type]
    layout = Layout.of([site], torch.float32)
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    for part, view in views_into(buffer, layout.entries)[path].tensors.items():
        view.copy_(parts[part])
    return Image(name, torch.float32, buffer, layout.entries)


def random_parts(seed: int, rank: int, *optional: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    columns = torch.randint(0, max(rank, 1), (rank, 2), generator=generator, dtype=torch.int32)
    every = {
        "a": normal(rank, K),
        "bt": normal(rank, N),
        "gain": normal(N).abs() + 0.5,
        "bias": normal(N),
        "inner_bias": normal(rank),
        "delta_gain": normal(N),
        "core_values": normal(rank, 2),
        "core_columns": columns,
    }
    return {name: every[name] for name in ("a", "bt", *optional)}


def answer(parts: SiteParts, x: Tensor, y: Tensor) -> Tensor:
    """The adapter on top of y = W x, by the reference."""
    find = parts.tensors.get
    values, columns = find("core_values"), find("core_columns")
    lowrank = LowRank(
        parts.tensors["a"],
        parts.tensors["bt"],
        find("gain"),
        find("bias"),
        core=None if values is None or columns is None else Core(values, columns),
        inner_bias=find("inner_bias"),
        activation=parts.activation,
        delta_gain=find("delta_gain"),
    )
    table = SlotTable(2, K, N, CPU)
    table.put(1, lowrank)
    return ReferenceOps().adapt(x, y, table, Routing.from_slots([1] * len(x)))


KINDS: dict[str, tuple[str, ...]] = {
    "lora": (),
    "dora": ("gain",),
    "ia3": ("gain", "bias"),
    "vera": ("core_values", "core_columns", "delta_gain"),
    "inner bias": ("inner_bias",),
}


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_the_sum_changes_what_each_changes(first: str, second: str) -> None:
    images = [
        image("one", **random_parts(1, 3, *KINDS[first])),
        image("two", **random_parts(2, 5, *KINDS[second])),
        image("three", **random_parts(3, 0, "bias")),
    ]
    weights = (0.7, -0.4, 2.0)
    members = [Member(one.digest, one, w) for one, w in zip(images, weights, strict=True)]
    whole = compose("whole", members)
    x, y = torch.randn(4, K), torch.randn(4, N)
    expected = y.clone()
    for one, weight in zip(images, weights, strict=True):
        expected += weight * (answer(one.views(one.buffer)[PATH], x, y) - y)
    actual = answer(whole.views(whole.buffer)[PATH], x, y)
    assert torch.allclose(actual, expected, atol=1e-4, rtol=1e-4)
    assert whole.digest == "whole"


def test_places_that_only_one_changes_and_embeddings() -> None:
    at, bt = torch.randn(9, 2), torch.randn(2, 6)
    members = [
        Member("one", image("one", **random_parts(1, 3)), 0.5),
        Member("two", image("two", "model.embed_tokens", at=at, bt=bt), 2.0),
        Member("three", image("three", "model.embed_tokens", at=at + 1, bt=bt), 1.0),
    ]
    whole = compose("whole", members)
    views = whole.views(whole.buffer)
    assert set(views) == {PATH, "model.embed_tokens"}
    embedding = views["model.embed_tokens"].tensors
    expected = 2 * at @ bt + (at + 1) @ bt
    assert torch.allclose(embedding["at"] @ embedding["bt"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (image("b", **random_parts(1, 2) | {"in_gain": torch.ones(K)}), "more than a linear's"),
        (image("b", activation="gelu", **random_parts(1, 2)), "non-linearity"),
        (image("b", **random_parts(1, 2) | {"gain": torch.zeros(N)}), "cancels"),
        (image("b", weight=torch.ones(N)), "more than a linear's"),
    ],
)
def test_what_cannot_be_added_is_refused_by_name(other: Image, message: str) -> None:
    plain = image("a", **random_parts(1, 2))
    with pytest.raises(AdapterRefused, match=message) as refused:
        compose("whole", [Member("plain", plain, 1.0), Member("other", other, 1.0)])
    assert refused.value.param == "adapters"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path, BASE, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    random_adapter(BASE, seed=1).put(opened, name="one")
    random_adapter(BASE, seed=2, dora=True).put(opened, name="two")
    yield opened
    opened.close()


def test_a_sum_has_a_digest_of_its_own_and_an_image(store: AdapterStore) -> None:
    with store.lease_sum("acme", [("one", 0.5), ("two", 1)]) as lease:
        adapter = lease.adapter
        assert adapter.name == "one+two"
        assert adapter.tenant == "acme"
        assert store.image(adapter.digest).digest == adapter.digest
        for other in ([("one", 0.5), ("two", 1.5)], [("two", 1), ("one", 0.5)], [("one", 0.5)]):
            with store.lease_sum("acme", other) as another:
                assert another.adapter.digest != adapter.digest
        with store.lease_sum("acme", [("one", 0.5), ("two", 1.0)]) as same:
            assert same.adapter.digest == adapter.digest


def test_a_sum_holds_its_members_and_goes_when_one_of_them_does(store: AdapterStore) -> None:
    removed: list[str] = []
    store.on_removed(removed.append)
    member = store.get("acme", "one").digest
    lease = store.lease_sum("acme", [("one", 1.0), ("two", 1.0)])
    store.delete("acme", "one")
    assert store.image(lease.adapter.digest)
    assert removed == []
    lease.release()
    store.close()
    assert set(removed) == {member, lease.adapter.digest}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("one", 1.0), ("one", 2.0)], "twice"),
        ([("one", float("nan"))], "from -100 to 100"),
        ([("one", 101.0)], "from -100 to 100"),
        ([], "1 to 8"),
    ],
)
def test_weights_and_names_that_cannot_be(
    store: AdapterStore, members: list[tuple[str, float]], message: str
) -> None:
    with pytest.raises(AdapterRefused, match=message):
        store.lease_sum("acme", members)
    store.delete("acme", "one")
    store.delete("acme", "two")
    assert not store._index._leases
