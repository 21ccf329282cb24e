"""NF4 linears: this library's, torch's on bf16 weights, bitsandbytes' on NF4."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from bitsandbytes.nn import Linear4bit
from motet_kernels import Nf4Weight, Routing, SlotTable
from motet_kernels.cpu.native_ops import NativeCpuOps
from torch import Tensor
from torch.nn import functional as F

from benchmarks.products.clock import Clock, each

CPU = torch.device("cpu")
BF16 = torch.bfloat16
NF4_BYTES = 0.5 + 4 / 64  # a weight: its code, and its share of a float32 scale for 64
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# NF4 weights that take turns; several times the last cache of most machines.
_ROTATED_BYTES = 96 << 20

# [N, K] of the projections of a layer that share an input: q/k/v, o, gate/up, down.
SHAPES = {
    "SmolLM2-135M": ((960, 576), (576, 576), (3072, 576), (576, 1536)),
    "Llama-3.2-1B": ((3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192)),
    "Llama-3.1-8B": ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)),
}


@dataclass(frozen=True)
class LinearTime:
    model: str
    n: int
    k: int
    rows: int
    ours_s: float
    torch_s: float
    bitsandbytes_s: float
    num_bytes: float
    """Of the NF4 weight with its scales, read once."""
    flops: float


def time_linears(
    models: Sequence[str], rows: Sequence[int], native: NativeCpuOps, clock: Clock
) -> Iterator[LinearTime]:
    for model in models:
        for n, k in SHAPES[model]:
            weights = _Weights(n, k, native)
            for count in rows:
                times = weights.time(count, native, clock)
                yield LinearTime(model, n, k, count, *times, n * k * NF4_BYTES, 2.0 * count * n * k)


class _Weights:
    """One weight in the three forms, as many times as it takes to leave no copy in a cache."""

    def __init__(self, n: int, k: int, native: NativeCpuOps) -> None:
        self._k = k
        self._copies = max(2, int(_ROTATED_BYTES // (n * k * NF4_BYTES)))
        dense = torch.randn(n, k).to(BF16)
        weight = Nf4Weight.quantize(dense.float())
        self._groups = [native.pack([weight], [None], BF16, CPU) for _ in range(self._copies)]
        self._dense = [dense.clone() for _ in range(self._copies)]
        self._bitsandbytes = [_bitsandbytes_linear(dense) for _ in range(self._copies)]
        self._table = [SlotTable(1, k, n, CPU)]

    def time(self, rows: int, native: NativeCpuOps, clock: Clock) -> tuple[float, ...]:
        """Seconds a call: ours, torch's, bitsandbytes'."""
        x, routing = torch.randn(rows, self._k).to(BF16), Routing.from_slots([0] * rows)
        contenders = (
            each(self._groups, lambda it: native.adapted_linear(x, it, self._table, routing)),
            each(self._dense, lambda it: F.linear(x, it)),
            each(self._bitsandbytes, lambda it: it(x)),
        )
        with torch.inference_mode():
            return tuple(seconds / self._copies for seconds in clock.best(contenders))


def _bitsandbytes_linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    n, k = weight.shape
    linear = Linear4bit(k, n, bias=False, compute_dtype=BF16, quant_type="nf4")
    linear.load_state_dict({"weight": weight})
    return linear.to("cpu").eval()
