"""What row independence costs, on the one product where the same code can be had without it.

The NF4 products keep one order of sums per row by construction; no variant of them that gives this
up is known to be faster, so there is nothing to compare. The output head is not quantised: torch's
own bf16 product, free to choose its order by the number of rows, is compared with the same product
padded to row counts that keep the promise (CpuOps), and with the native `dense_linear`, on
SmolLM2-135M's head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from motet_kernels import Ops
from motet_kernels.cpu.cpu_ops import CpuOps
from torch.nn import functional as F

from benchmarks.products.clock import Clock

HEAD = (49152, 576)


@dataclass(frozen=True)
class PromiseCost:
    rows: int
    torch_s: float
    """`F.linear`."""
    torch_padded_s: float
    """`CpuOps.dense_linear`: the same product at row counts proved to keep the promise."""
    ours_s: float
    """`NativeCpuOps.dense_linear`."""


def time_promise(rows: Sequence[int], native: Ops, clock: Clock) -> Iterator[PromiseCost]:
    weight = torch.randn(HEAD).to(torch.bfloat16)
    padded = CpuOps()
    for count in rows:
        x = torch.randn(count, HEAD[1]).to(torch.bfloat16)
        contenders = (
            lambda x=x: F.linear(x, weight),
            lambda x=x: padded.dense_linear(x, weight, None),
            lambda x=x: native.dense_linear(x, weight, None),
        )
        with torch.inference_mode():
            yield PromiseCost(count, *clock.best(contenders))
