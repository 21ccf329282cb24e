"""Linears on a GPU: Motet's NF4 product, bitsandbytes', torch's on bf16 weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from bitsandbytes.nn import Linear4bit
from motet_kernels import Nf4Weight, Routing, SlotTable
from motet_kernels.gpu.gpu_ops import GpuOps
from torch.nn import functional as F

from benchmarks.gpu_products.device_clock import DeviceClock, in_turn
from benchmarks.products.linears import SHAPES

BF16 = torch.bfloat16
HEAD = (128256, 4096)  # Llama-3.1-8B's

# NF4 weights that take turns: more than the last cache of any GPU.
ROTATED_BYTES = 256 << 20


@dataclass(frozen=True)
class LinearTime:
    """Seconds a call."""

    model: str
    n: int
    k: int
    rows: int
    promise_s: float
    fast_math_s: float
    bitsandbytes_s: float
    bf16_s: float


@dataclass(frozen=True)
class HeadTime:
    rows: int
    promise_s: float
    free_s: float


def time_linears(model: str, rows: Sequence[int], clock: DeviceClock) -> Iterator[LinearTime]:
    for n, k in SHAPES[model]:
        yield from time_linear(model, n, k, rows, clock, ROTATED_BYTES)


def time_linear(
    model: str, n: int, k: int, rows: Sequence[int], clock: DeviceClock, rotated_bytes: int
) -> Iterator[LinearTime]:
    device = clock.device
    copies = max(2, int(rotated_bytes // (n * k * 0.5625)))
    dense = [torch.randn(n, k, device=device).to(BF16) for _ in range(copies)]
    weights = [Nf4Weight.quantize(each.float()) for each in dense]
    promise, fast_math = GpuOps(), GpuOps(fast_math=True)
    groups = [promise.pack([each], [None], BF16, device) for each in weights]
    linears = [_bitsandbytes_linear(each) for each in dense]
    tables = [SlotTable(1, k, n, device)]
    for count in rows:
        x, routing = torch.randn(count, k, device=device).to(BF16), Routing.from_slots([0] * count)

        def product(ops: GpuOps, group: object, x=x, routing=routing) -> object:
            return ops.adapted_linear(x, group, tables, routing)

        contenders = (
            in_turn([partial(product, promise, each) for each in groups]),
            in_turn([partial(product, fast_math, each) for each in groups]),
            in_turn([partial(each, x) for each in linears]),
            in_turn([partial(F.linear, x, each) for each in dense]),
        )
        yield LinearTime(model, n, k, count, *clock.medians(contenders))


def time_head(
    rows: Sequence[int], clock: DeviceClock, shape: tuple[int, int] = HEAD
) -> Iterator[HeadTime]:
    """What the promise costs lm_head."""
    weight = torch.randn(shape, device=clock.device).to(BF16)
    promise, free = GpuOps(), GpuOps(fast_math=True)
    for count in rows:
        x = torch.randn(count, shape[1], device=clock.device).to(BF16)
        contenders = [partial(ops.dense_linear, x, weight, None) for ops in (promise, free)]
        yield HeadTime(count, *clock.medians(contenders))


def _bitsandbytes_linear(weight: torch.Tensor) -> Linear4bit:
    n, k = weight.shape
    linear = Linear4bit(k, n, bias=False, compute_dtype=BF16, quant_type="nf4")
    linear.load_state_dict({"weight": weight.cpu()})
    return linear.to(weight.device).eval()
