"""What adapters add to a linear on a GPU: 8 of rank 16, rows spread evenly over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from motet_kernels import LowRank, Nf4Weight, Routing, SlotTable
from motet_kernels.gpu.gpu_ops import GpuOps

from benchmarks.gpu_products.device_clock import DeviceClock
from benchmarks.gpu_products.vllm_lora import shrink_and_expand
from benchmarks.products.linears import SHAPES

BF16 = torch.bfloat16
NUM_ADAPTERS, RANK = 8, 16


@dataclass(frozen=True)
class AdapterTime:
    """Seconds a call. vllm_lora_s: shrink and expand without a base; None: vllm is not there."""

    model: str
    n: int
    k: int
    rows: int
    base_s: float
    lora_s: float
    dora_s: float
    vllm_lora_s: float | None


def time_adapters(model: str, rows: Sequence[int], clock: DeviceClock) -> Iterator[AdapterTime]:
    for n, k in SHAPES[model]:
        yield from time_adapted(model, n, k, rows, clock)


def time_adapted(
    model: str, n: int, k: int, rows: Sequence[int], clock: DeviceClock
) -> Iterator[AdapterTime]:
    device, ops = clock.device, GpuOps()
    weight = Nf4Weight.quantize(torch.randn(n, k, device=device))
    group = ops.pack([weight], [None], BF16, device)
    lora, dora = (_table(n, k, device, dora=dora) for dora in (False, True))
    for count in rows:
        x = torch.randn(count, k, device=device).to(BF16)
        slots = sorted(1 + t % NUM_ADAPTERS for t in range(count))
        base, adapted = Routing.from_slots([0] * count), Routing.from_slots(slots)

        def product(table: SlotTable, routing: Routing, x=x) -> object:
            return ops.adapted_linear(x, group, [table], routing)

        contenders = [
            lambda base=base: product(lora, base),
            lambda adapted=adapted: product(lora, adapted),
            lambda adapted=adapted: product(dora, adapted),
        ]
        peer = shrink_and_expand(x, n, RANK, NUM_ADAPTERS, [slot - 1 for slot in slots])
        times = clock.medians([*contenders, peer] if peer else contenders)
        yield AdapterTime(model, n, k, count, *times[:3], times[3] if peer else None)


def _table(n: int, k: int, device: torch.device, *, dora: bool) -> SlotTable:
    table = SlotTable(NUM_ADAPTERS + 1, k, n, device)
    for slot in range(1, NUM_ADAPTERS + 1):
        a, bt = (torch.randn(RANK, size, device=device).to(BF16) for size in (k, n))
        gain = torch.rand(n, device=device).to(BF16) if dora else None
        table.put(slot, LowRank(a, bt, gain))
    return table
