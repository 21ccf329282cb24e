"""Bytes and instructions of one decode step, counted: nothing here was measured.

A step generates one token for each of its rows. What it must read is counted once a step: the
base's weights, the tensors of each adapter that some row is on, each row's keys and values. A part
of the step takes at least the longest of reading its bytes, issuing its instructions and doing its
products; the parts follow each other, so the least times add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

BF16, F32 = 2, 4  # bytes
NF4_BYTES = 0.5 + F32 / 64  # a weight: its code, and its share of the block's scale
LANES, SCHEDULERS = 32, 4  # of an instruction, of a multiprocessor


@dataclass(frozen=True)
class Gpu:
    """Figures of the maker's data sheet, peaks all of them."""

    name: str  # as the driver calls it
    architecture: str
    multiprocessors: int
    clock_hz: float
    bytes_per_s: float
    flops: float  # dense bf16 on tensor cores

    @property
    def lanes_per_s(self) -> float:
        """Instructions issued a second, counted once for each lane."""
        return self.multiprocessors * SCHEDULERS * LANES * self.clock_hz


@dataclass(frozen=True)
class Model:
    """A decoder of Llama's form: sizes of its linears, groups that share an input."""

    layers: int
    groups: tuple[tuple[int, tuple[int, ...]], ...]  # (K, (N, ...)) of a layer
    vocabulary: int
    hidden: int
    kv_heads: int
    head_size: int

    def kv_bytes(self, keys: int) -> int:
        """Keys and values of one row that has so many."""
        return self.layers * keys * 2 * self.kv_heads * self.head_size * BF16


@dataclass(frozen=True)
class Load:
    """rows: sequences in the step, `keys` tokens long each. adapters: how many the rows are spread
    over evenly, 0 for the base alone; all of `rank` on every linear of a layer."""

    rows: int
    adapters: int
    rank: int
    keys: int

    @property
    def active(self) -> int:
        """Adapters that some row of the step is on."""
        return min(self.adapters, self.rows)


@dataclass(frozen=True)
class Engine:
    """weight_bytes: of a weight in a linear. read_rank: of an adapter of a rank, how many ranks are
    read. instructions: for (gpu, rows, N), instructions a weight in the inner loop of the product,
    and rows that one pass over the weights serves. row_multiple: what a step's rows are padded
    to."""

    name: str
    weight_bytes: float
    read_rank: Callable[[int], int]
    instructions: Callable[[Gpu, int, int], tuple[float, int]]
    row_multiple: int = 1

    def computed(self, rows: int) -> int:
        """Rows that go through the linears, padding included."""
        return ceil(rows / self.row_multiple) * self.row_multiple


@dataclass(frozen=True)
class Part:
    """One kind of work in a step."""

    name: str
    num_bytes: float
    instructions: float
    flops: float

    def seconds(self, gpu: Gpu) -> float:
        """The least time it can take."""
        return max(
            self.num_bytes / gpu.bytes_per_s,
            self.instructions / gpu.lanes_per_s,
            self.flops / gpu.flops,
        )


LLAMA_3_1_8B = Model(
    layers=32,
    groups=(
        (4096, (4096, 1024, 1024)),
        (4096, (4096,)),
        (4096, (14336, 14336)),
        (14336, (4096,)),
    ),
    vocabulary=128256,
    hidden=4096,
    kv_heads=8,
    head_size=128,
)

# L4, A100 80GB and H100 SXM: NVIDIA's data sheets, boost clocks.
GPUS = (
    Gpu("NVIDIA L4", "sm_89", 58, 2.04e9, 300e9, 121e12),
    Gpu("NVIDIA A100-SXM4-80GB", "sm_80", 108, 1.41e9, 2039e9, 312e12),
    Gpu("NVIDIA H100 80GB HBM3", "sm_90", 132, 1.755e9, 3350e9, 989e12),
)


def parts(model: Model, load: Load, engine: Engine, gpu: Gpu) -> Iterator[Part]:
    """The parts of a step, in order: base linears, adapters, attention, lm_head."""
    rows = engine.computed(load.rows)
    for k, sizes in model.groups:
        weights, outputs = model.layers * k * sum(sizes), sum(sizes)
        per_weight, rows_served = engine.instructions(gpu, rows, outputs)
        moved = model.layers * rows * (k + outputs) * BF16
        yield Part(
            f"linears {k} to {outputs}",
            weights * engine.weight_bytes + moved,
            weights * per_weight * ceil(rows / rows_served),
            2 * weights * rows,
        )
    if load.active:
        sizes_of_one = sum(k + n for k, ns in model.groups for n in ns) * model.layers
        rank = engine.read_rank(load.rank)
        yield Part(
            "adapters",
            load.active * rank * sizes_of_one * BF16,
            0.0,
            2 * load.rows * rank * sizes_of_one,
        )
    yield Part("attention", load.rows * model.kv_bytes(load.keys), 0.0, 0.0)
    head = model.vocabulary * model.hidden
    yield Part("lm_head", head * BF16, 0.0, 2 * head * load.rows)
