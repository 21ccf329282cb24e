"""Inputs for the kernel contract: groups of linears, slots at mixed ranks, routings, an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from motet_kernels import LowRank, Nf4Weight, Ops, Routing, SlotTable
from motet_kernels.cpu.native_library import ALL_LEVELS
from torch import Tensor
from transformers.activations import ACT2FN

from tests.support.lowrank_families import lowranks

CPU = torch.device("cpu")

RANKS = (1, 3, 7, 8, 16, 96)
POPULARITIES = ("distinct", "identical", "skewed", "all-base", "one-base-in-the-middle", "random")

ALL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# What each implementation is tried in: Triton's interpreter gets bf16 wrong.
DTYPES = {
    "reference": (torch.float32, torch.bfloat16),
    "cpu": (torch.float32, torch.bfloat16),
    **{f"cpu-native ({level})": (torch.float32, torch.bfloat16) for level in ALL_LEVELS},
    "gpu": ALL_DTYPES if torch.cuda.is_available() else (torch.float32, torch.float16),
}

# dtype -> largest error relative to the largest value, and relative root mean square error.
TOLERANCES = {
    torch.float32: (1e-5, 2e-6),
    torch.float16: (2e-3, 1e-3),
    torch.bfloat16: (1e-2, 5e-3),
}

# The same of bf16 where products take their inputs in 8 bits.
ROUNDED_TO_8_BITS = (2e-2, 1e-2)


def slots_of(popularity: str, num_tokens: int) -> list[int]:
    """The slot of each token; slots 1 to len(RANKS) hold adapters."""
    count = len(RANKS)
    if popularity == "distinct":
        return [1 + t % count for t in range(num_tokens)]
    if popularity == "identical":
        return [2] * num_tokens
    if popularity == "skewed":
        return [1 + t % count if t % 5 == 4 else 5 for t in range(num_tokens)]
    if popularity == "all-base":
        return [0] * num_tokens
    if popularity == "one-base-in-the-middle":
        slots = [1 + t * count // num_tokens for t in range(num_tokens)]
        slots[num_tokens // 2] = 0
        return slots
    generator = torch.Generator().manual_seed(num_tokens)
    return torch.randint(0, count + 1, (num_tokens,), generator=generator).tolist()


def random_weight(n: int, k: int, generator: torch.Generator) -> Nf4Weight:
    """Random codes and scales: quantising a large weight would take seconds."""
    codes = torch.randint(256, (-(-n * k // 2), 1), generator=generator, dtype=torch.uint8)
    absmax = torch.rand(-(-n * k // 64), generator=generator) + 1
    return Nf4Weight(codes, absmax, (n, k))


@dataclass(frozen=True)
class GroupCase:
    """Linears [N_j, K] with an adapter in each slot 1 to len(RANKS), and a slot full of NaN.

    Slot s has rank RANKS[s - 1], or what `ranks` says; odd slots have a gain, every third slot a
    bias. The first slot leaves the last member alone when the group has several members.
    """

    weights: tuple[Nf4Weight, ...]
    biases: tuple[Tensor | None, ...]
    tables: tuple[SlotTable, ...]
    in_features: int

    @classmethod
    def make(
        cls,
        outs: Sequence[int],
        in_features: int,
        dtype: torch.dtype,
        *,
        biased: bool = True,
        ranks: Sequence[int] = RANKS,
    ) -> GroupCase:
        generator = torch.Generator().manual_seed(in_features + sum(outs))

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        weights = tuple(random_weight(n, in_features, generator) for n in outs)
        biases = tuple(normal(n) if biased and j % 2 == 0 else None for j, n in enumerate(outs))
        tables = tuple(SlotTable(len(RANKS) + 2, in_features, n, CPU) for n in outs)
        for j, (table, n) in enumerate(zip(tables, outs, strict=True)):
            for slot, rank in enumerate(ranks, start=1):
                if slot == 1 and j and j == len(outs) - 1:
                    continue
                lowrank = LowRank(
                    a=normal(rank, in_features).to(dtype),
                    bt=(normal(rank, n) / rank).to(dtype),
                    gain=(normal(n) + 1).to(dtype) if slot % 2 else None,
                    bias=normal(n).to(dtype) if slot % 3 == 0 else None,
                )
                table.put(slot, lowrank)
            nan = torch.full((4, in_features), torch.nan, dtype=dtype)
            nan_out = torch.full((4, n), torch.nan, dtype=dtype)
            table.put(len(RANKS) + 1, LowRank(nan, nan_out, nan_out[0], nan_out[0]))
        return cls(weights, biases, tables, in_features)

    @classmethod
    def of_families(cls, outs: Sequence[int], in_features: int, dtype: torch.dtype) -> GroupCase:
        """The same with an adapter of every family in a slot of its own, from slot 1 on.

        A group of several linears has none that scale its input, and every member lacks one.
        """
        generator = torch.Generator().manual_seed(in_features + sum(outs))
        weights = tuple(random_weight(n, in_features, generator) for n in outs)
        biases = tuple(
            torch.randn(n, generator=generator) if j % 2 == 0 else None for j, n in enumerate(outs)
        )
        tables = []
        for j, n in enumerate(outs):
            found = lowranks(in_features, n, dtype, alone=len(outs) == 1, seed=j)
            tables.append(SlotTable(len(found) + 2, in_features, n, CPU))
            for slot, lowrank in enumerate(found.values(), start=1):
                tables[j].put(slot, lowrank)
            if len(outs) > 1:
                tables[j].clear(5 + j)
            nan = {
                name: torch.full_like(tensor, torch.nan)
                for name, tensor in found["all but in_gain"].tensors().items()
                if tensor.is_floating_point() and name != "core_values"
            }
            tables[j].put(len(found) + 1, LowRank(**nan))
        return cls(weights, biases, tuple(tables), in_features)

    @property
    def all_slots(self) -> list[int]:
        """The base and every adapter, without the last slot's."""
        return list(range(len(self.tables[0]) - 1))

    def spoil_unused_slots(self, slots: Sequence[int]) -> None:
        """Fill every adapter that no token of `slots` runs on with NaN, but what others share."""
        for table in self.tables:
            used = [table[slot] for slot in set(slots)]
            kept = {t.data_ptr() for one in used if one for t in one.tensors().values()}
            for slot in set(range(1, len(table))) - set(slots):
                lowrank = table[slot]
                for tensor in lowrank.tensors().values() if lowrank else ():
                    if tensor.is_floating_point() and tensor.data_ptr() not in kept:
                        tensor.fill_(torch.nan)

    def inputs(self, num_tokens: int, dtype: torch.dtype) -> Tensor:
        generator = torch.Generator().manual_seed(num_tokens)
        return torch.randn(num_tokens, self.in_features, generator=generator).to(dtype)

    def run(self, ops: Ops, x: Tensor, slots: Sequence[int]) -> tuple[Tensor, ...]:
        group = ops.pack(self.weights, self.biases, x.dtype, CPU)
        return ops.adapted_linear(x, group, self.tables, Routing.from_slots(slots))

    def expected(self, x: Tensor, slots: Sequence[int]) -> tuple[Tensor, ...]:
        """The same in float64, with adapters merged into the weight they apply to."""
        return tuple(self._member(j, x.double(), slots) for j in range(len(self.weights)))

    def adapted(self, x: Tensor, y: Tensor, slots: Sequence[int]) -> Tensor:
        """What `adapt` makes of the first table's adapters, in float64."""
        rows = []
        for row, below, slot in zip(x.double(), y.double(), slots, strict=True):
            lowrank = self.tables[0][slot]
            if lowrank is not None:
                gain, offset = _gain_and_bias(lowrank)
                below = gain * (below + _delta(lowrank, row)) + offset
            rows.append(below)
        return torch.stack(rows)

    def _member(self, j: int, x: Tensor, slots: Sequence[int]) -> Tensor:
        weight = self.weights[j].dequantize(torch.float32).double()
        rows = []
        for row, slot in zip(x, slots, strict=True):
            lowrank = self.tables[j][slot]
            merged, offset = weight, torch.zeros(weight.shape[0], dtype=torch.float64)
            if lowrank is not None:
                gain, offset = _gain_and_bias(lowrank)
                if lowrank.in_gain is not None:
                    row = lowrank.in_gain.double() * row
                if lowrank.activation == "identity" and lowrank.inner_bias is None:
                    merged = gain[:, None] * (weight + _delta(lowrank, torch.eye(len(row))).T)
                else:
                    merged = gain[:, None] * weight
                    offset = offset + gain * _delta(lowrank, row)
            bias = self.biases[j]
            rows.append(merged @ row + offset + (0 if bias is None else bias.double()))
        return torch.stack(rows)


def _gain_and_bias(lowrank: LowRank) -> tuple[Tensor, Tensor]:
    n = lowrank.bt.shape[1]
    gain = torch.ones(n) if lowrank.gain is None else lowrank.gain
    return gain.double(), (torch.zeros(n) if lowrank.bias is None else lowrank.bias).double()


def _delta(lowrank: LowRank, z: Tensor) -> Tensor:
    """z [..., K] -> [..., N] in float64, with the core as a whole matrix."""
    u = z.double() @ lowrank.a.double().T
    if lowrank.core is not None:
        core = torch.zeros(lowrank.rank, lowrank.rank, dtype=torch.float64)
        columns = lowrank.core.columns.long()
        u = u @ core.scatter_add(1, columns, lowrank.core.values.double()).T
    if lowrank.inner_bias is not None:
        u = u + lowrank.inner_bias.double()
    if lowrank.activation != "identity":
        u = ACT2FN[lowrank.activation](u)
    delta = u @ lowrank.bt.double()
    return delta if lowrank.delta_gain is None else lowrank.delta_gain.double() * delta


def assert_close(actual: Tensor, expected: Tensor, usual: float = 1e-3) -> None:
    """Largest and root mean square error, relative, by the dtype of `actual`.

    usual: about the size of a value, lest a sum that happens to be near zero be held to less.
    """
    largest, rmse = TOLERANCES[actual.dtype]
    error = (actual.double() - expected.double()).abs()
    scale = expected.double().abs().max().clamp(min=usual)
    assert (error.max() / scale).item() <= largest
    rms = expected.double().square().mean().sqrt().clamp(min=usual)
    assert (error.square().mean().sqrt() / rms).item() <= rmse
