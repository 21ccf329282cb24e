"""Adapters with any of LowRank's parts, and rows of a step on top of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from motet_kernels import LowRank, Ops, ReferenceOps, Routing, SlotTable
from motet_kernels.lowrank import ACTIVATIONS, Activation, Core
from torch import Tensor

from tests.support.kernel_cases import CPU, random_weight

# What a slot may have besides A and B; a core by the entries of its rows, 0 for as many as ranks.
PARTS = ("gain", "bias", "delta_gain", "inner_bias", "core-1", "core-3", "core-0")


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def adapter(
    rank: int,
    k: int,
    n: int,
    dtype: torch.dtype,
    *,
    parts: Iterable[str] = (),
    activation: Activation = "identity",
    seed: int = 0,
) -> LowRank:
    """A random adapter with the parts named, of PARTS and "in_gain"."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    sizes = {"gain": n, "bias": n, "delta_gain": n, "inner_bias": rank, "in_gain": k}
    a, bt = normal(generator, rank, k) / k**0.5, normal(generator, rank, n) / max(rank, 1) ** 0.5
    vectors = {
        name: (normal(generator, size) + 1).to(dtype)
        for name, size in sizes.items()
        if name in tuple(parts)
    }
    core = None
    for part in parts:
        if part.startswith("core-"):
            width = int(part.removeprefix("core-")) or rank
            values = (normal(generator, rank, width) / max(width, 1) ** 0.5).to(dtype)
            columns = torch.randint(max(rank, 1), (rank, width), generator=generator)
            core = Core(values, columns.to(torch.int32))
    return LowRank(
        a=a.to(dtype),
        bt=bt.to(dtype),
        gain=vectors.get("gain"),
        bias=vectors.get("bias"),
        in_gain=vectors.get("in_gain"),
        core=core,
        inner_bias=vectors.get("inner_bias"),
        activation=activation,
        delta_gain=vectors.get("delta_gain"),
    )


def varied_adapters(k: int, n: int, dtype: torch.dtype, seed: int = 0) -> list[LowRank]:
    """One of each kind: plain, each part, all parts, each activation, none but a gain and bias."""
    found = [adapter(rank, k, n, dtype, seed=seed) for rank in (3, 16, 33)]
    found += [adapter(5, k, n, dtype, parts=[part], seed=seed) for part in PARTS]
    found += [
        adapter(7, k, n, dtype, parts=["inner_bias"], activation=activation, seed=seed)
        for activation in ACTIVATIONS
    ]
    rest = [part for part in PARTS if not part.startswith("core-")]
    found.append(adapter(20, k, n, dtype, parts=[*rest, "core-0"], activation="gelu", seed=seed))
    found.append(adapter(0, k, n, dtype, parts=["gain", "bias"], seed=seed))
    return found


def table_of(adapters: Sequence[LowRank | None], k: int, n: int) -> SlotTable:
    """Slot 1 and on hold the adapters, in order; None: the slot leaves the linear alone."""
    table = SlotTable(len(adapters) + 1, k, n, CPU)
    for slot, lowrank in enumerate(adapters, start=1):
        if lowrank is not None:
            table.put(slot, lowrank)
    return table


@dataclass(frozen=True)
class LinearCase:
    """Linears [N_j, K] with biases, the tables of their slots, and a step's inputs."""

    tables: tuple[SlotTable, ...]
    x: Tensor  # [T, K]
    slots: tuple[int, ...]  # of each row

    @classmethod
    def make(
        cls, tables: Sequence[SlotTable], slots: Sequence[int], dtype: torch.dtype
    ) -> LinearCase:
        generator = torch.Generator().manual_seed(len(slots))
        x = normal(generator, len(slots), tables[0].in_features).to(dtype)
        return cls(tuple(tables), x, tuple(slots))

    def rows(self, order: Sequence[int]) -> LinearCase:
        """Only those rows, in that order."""
        return LinearCase(self.tables, self.x[list(order)], tuple(self.slots[t] for t in order))

    def linear(self, ops: Ops) -> tuple[Tensor, ...]:
        """adapted_linear of each member's y."""
        generator = torch.Generator().manual_seed(1)
        sizes = [(table.out_features, table.in_features) for table in self.tables]
        weights = [random_weight(n, k, generator) for n, k in sizes]
        biases = [normal(generator, n) if j % 2 == 0 else None for j, (n, _) in enumerate(sizes)]
        group = ops.pack(weights, biases, self.x.dtype, CPU)
        return ops.adapted_linear(self.x, group, self.tables, Routing.from_slots(self.slots))

    def adapt(self, ops: Ops) -> Tensor:
        """adapt of the first member's table, on top of random results."""
        table = self.tables[0]
        generator = torch.Generator().manual_seed(2)
        y = normal(generator, 1, table.out_features) + self.x[:, :1].float()  # the row's own
        return ops.adapt(self.x, y.to(self.x.dtype), table, Routing.from_slots(self.slots))

    def expected_linear(self) -> tuple[Tensor, ...]:
        """The same by the reference, in float32."""
        return LinearCase(self.tables, self.x.float(), self.slots).linear(ReferenceOps())

    def expected_adapt(self) -> Tensor:
        """The same by the reference, in float32, from y as the kernels get it."""
        table = self.tables[0]
        generator = torch.Generator().manual_seed(2)
        y = normal(generator, 1, table.out_features) + self.x[:, :1].float()
        y = y.to(self.x.dtype).float()
        return ReferenceOps().adapt(self.x.float(), y, table, Routing.from_slots(self.slots))
