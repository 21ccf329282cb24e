"""The ops on a device, for cases whose tensors lie on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from motet_kernels import AttentionRow, LowRank, Nf4Weight, Ops, Routing, SlotTable
from motet_kernels.lowrank import Core
from motet_kernels.ops import AttentionPlan, PackedGroup
from torch import Tensor


class DeviceOps:
    """`Ops` that takes and gives CPU tensors and computes on `device` with the ops it is given.

    What is in a table or a cache is copied at every call, so that a case may change it between.
    """

    def __init__(self, ops: Ops, device: torch.device) -> None:
        self._ops, self._device = ops, device
        self.name = ops.name
        self.adapter_dtype: Callable[[torch.dtype], torch.dtype] = ops.adapter_dtype
        self.row_multiple: Callable[[torch.dtype], int] = ops.row_multiple

    def pack(
        self,
        weights: Sequence[Nf4Weight],
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> PackedGroup:
        moved = [None if bias is None else self._to(bias) for bias in biases]
        return self._ops.pack([each.to(self._device) for each in weights], moved, dtype,
                              self._device)  # fmt: skip

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        moved = None if bias is None else self._to(bias)
        return self._ops.dense_linear(self._to(x), self._to(weight), moved).cpu()

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        moved = [self._table(table) for table in tables]
        return tuple(y.cpu() for y in self._ops.adapted_linear(self._to(x), group, moved, routing))

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        return self._ops.adapt(self._to(x), self._to(y), self._table(table), routing).cpu()

    def plan_attention(
        self, rows: Sequence[AttentionRow], block_size: int, device: torch.device
    ) -> AttentionPlan:
        return self._ops.plan_attention(rows, block_size, self._device)

    def store_kv(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
    ) -> None:
        caches = self._to(k_cache), self._to(v_cache)
        self._ops.store_kv(self._to(k), self._to(v), *caches, self._to(slots))
        k_cache.copy_(caches[0])
        v_cache.copy_(caches[1])

    def attention(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: AttentionPlan, **how: Any
    ) -> Tensor:
        caches = self._to(k_cache), self._to(v_cache)
        return self._ops.attention(self._to(q), *caches, plan, **how).cpu()

    def _table(self, table: SlotTable) -> SlotTable:
        moved = SlotTable(len(table), table.in_features, table.out_features, self._device)
        for slot in range(1, len(table)):
            lowrank = table[slot]
            if lowrank is not None:
                moved.put(slot, self._lowrank(lowrank))
        return moved

    def _lowrank(self, lowrank: LowRank) -> LowRank:
        tensors = {
            name: self._to(value)
            for name, value in lowrank._asdict().items()
            if isinstance(value, Tensor)
        }
        core = lowrank.core and Core(*map(self._to, lowrank.core))
        return lowrank._replace(**tensors, core=core)

    def _to(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, copy=True)
