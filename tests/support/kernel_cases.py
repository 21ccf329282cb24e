"""Inputs for the kernel contract: groups of linears, slots at mixed ranks, routings, an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from motet_kernels import LowRank, Nf4Weight, Ops, Routing, SlotTable
from motet_kernels.cpu.native_library import ALL_LEVELS
from torch import Tensor

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

    def spoil_unused_slots(self, slots: Sequence[int]) -> None:
        """Fill every adapter that no token of `slots` runs on with NaN."""
        for table in self.tables:
            for slot in set(range(1, len(table))) - set(slots):
                lowrank = table[slot]
                for tensor in lowrank.tensors().values() if lowrank else ():
                    tensor.fill_(torch.nan)

    def inputs(self, num_tokens: int, dtype: torch.dtype) -> Tensor:
        generator = torch.Generator().manual_seed(num_tokens)
        return torch.randn(num_tokens, self.in_features, generator=generator).to(dtype)

    def run(self, ops: Ops, x: Tensor, slots: Sequence[int]) -> tuple[Tensor, ...]:
        group = ops.pack(self.weights, self.biases, x.dtype, CPU)
        return ops.adapted_linear(x, group, self.tables, Routing.from_slots(slots))

    def expected(self, x: Tensor, slots: Sequence[int]) -> tuple[Tensor, ...]:
        """The same in float64, with each adapter merged into the weight it applies to."""
        return tuple(self._member(j, x.double(), slots) for j in range(len(self.weights)))

    def _member(self, j: int, x: Tensor, slots: Sequence[int]) -> Tensor:
        weight = self.weights[j].dequantize(torch.float32).double()
        rows = []
        for row, slot in zip(x, slots, strict=True):
            lowrank = self.tables[j][slot]
            merged, offset = weight, torch.zeros(weight.shape[0], dtype=torch.float64)
            if lowrank is not None:
                merged = weight + lowrank.bt.double().T @ lowrank.a.double()
                if lowrank.gain is not None:
                    merged = lowrank.gain.double()[:, None] * merged
                if lowrank.bias is not None:
                    offset = offset + lowrank.bias.double()
            bias = self.biases[j]
            rows.append(merged @ row + offset + (0 if bias is None else bias.double()))
        return torch.stack(rows)


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
