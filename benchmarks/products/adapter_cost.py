"""What adapters add to the linears of a SmolLM2-135M layer: 32 rows over 8 adapters of rank 16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from motet_kernels import LowRank, Nf4Weight, Ops, Routing, SlotTable
from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.ops import PackedGroup
from torch import Tensor

from benchmarks.products.clock import Clock, each

NUM_ROWS, NUM_ADAPTERS, RANK = 32, 8, 16

_CPU = torch.device("cpu")
_BF16 = torch.bfloat16
_COPIES = 24  # layers that take turns

# Outputs of the members and K of each group: q/k/v, o, gate/up, down.
_GROUPS = (((576, 192, 192), 576), ((576,), 576), ((1536, 1536), 576), ((576,), 1536))


@dataclass(frozen=True)
class AdapterCost:
    """Seconds a layer."""

    base_s: float
    lora_s: float
    dora_s: float
    torch_base_s: float
    """The torch implementation of the same contract, CpuOps."""
    torch_lora_s: float
    read_s: float
    """Reading the adapters' bytes."""


@dataclass(frozen=True)
class _Group:
    packed: PackedGroup
    tables: list[SlotTable]
    in_features: int


def time_adapters(native: NativeCpuOps, clock: Clock) -> AdapterCost:
    x_by_k = {k: torch.randn(NUM_ROWS, k).to(_BF16) for _, k in _GROUPS}
    base = Routing.from_slots([0] * NUM_ROWS)
    adapted = Routing.from_slots(sorted(1 + i % NUM_ADAPTERS for i in range(NUM_ROWS)))
    lora, dora = _layers(native, dora=False), _layers(native, dora=True)
    by_torch = _layers(CpuOps(), dora=False)
    contenders = [
        _run(native, lora, x_by_k, base),
        _run(native, lora, x_by_k, adapted),
        _run(native, dora, x_by_k, adapted),
        _run(CpuOps(), by_torch, x_by_k, base),
        _run(CpuOps(), by_torch, x_by_k, adapted),
        each(_adapter_bytes(), Tensor.sum),
    ]
    with torch.inference_mode():
        return AdapterCost(*(seconds / _COPIES for seconds in clock.best(contenders)))


def _layers(ops: Ops, *, dora: bool) -> list[list[_Group]]:
    return [[_group(ops, outs, k, dora) for outs, k in _GROUPS] for _ in range(_COPIES)]


def _group(ops: Ops, outs: Sequence[int], k: int, dora: bool) -> _Group:
    dtype = ops.adapter_dtype(_BF16)
    weights = [Nf4Weight.quantize(torch.randn(n, k)) for n in outs]
    tables = [SlotTable(NUM_ADAPTERS + 1, k, n, _CPU) for n in outs]
    for table, n in zip(tables, outs, strict=True):
        for slot in range(1, NUM_ADAPTERS + 1):
            a, bt = torch.randn(RANK, k).to(dtype), torch.randn(RANK, n).to(dtype)
            gain = torch.rand(n).to(dtype) if dora else None
            table.put(slot, LowRank(a, bt, gain, None))
    return _Group(ops.pack(weights, [None] * len(outs), _BF16, _CPU), tables, k)


def _run(
    ops: Ops, layers: Sequence[Sequence[_Group]], x_by_k: dict[int, Tensor], routing: Routing
) -> Callable[[], None]:
    def run() -> None:
        for layer in layers:
            for group in layer:
                x = x_by_k[group.in_features]
                ops.adapted_linear(x, group.packed, group.tables, routing)

    return run


def _adapter_bytes() -> list[Tensor]:
    """As many bytes as a layer's LoRA adapters have in bf16, once for each layer."""
    num_bytes = sum(2 * NUM_ADAPTERS * RANK * (k + n) for outs, k in _GROUPS for n in outs)
    return [torch.ones(num_bytes // 4) for _ in range(_COPIES)]
