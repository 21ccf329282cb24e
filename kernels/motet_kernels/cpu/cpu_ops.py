"""Ops for the CPU in vectorised torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels import torch_attention
from motet_kernels.attention_layout import AttentionRow
from motet_kernels.cpu.lowrank_product import add_lowrank
from motet_kernels.cpu.row_multiple import RowMultiples, isolated_linear
from motet_kernels.cpu.segments import SegmentPlan
from motet_kernels.in_gain import refuse_in_gains, scaled_inputs
from motet_kernels.lowrank import SlotTable
from motet_kernels.nf4 import Nf4Weight
from motet_kernels.ops import AttentionPlan, PackedGroup, check_group
from motet_kernels.routing import Routing


@dataclass(frozen=True)
class CpuGroup(PackedGroup):
    weight: Tensor  # [sum N, K], the members one below the other, dequantised
    bias: Tensor | None  # float32 [sum N]; None: no member has one
    row_multiple: int | None  # of products with `weight`, see `isolated_linear`


class CpuOps:
    """Every op in plain torch, under the isolation promise of `ops.py`.

    The base product is one dense product in the compute dtype for a whole group; the low-rank
    products run in float32, slot by slot, on rows padded to a multiple of their own.
    """

    name = "cpu"

    def __init__(self) -> None:
        self._row_multiples = RowMultiples()
        self._plan: tuple[Routing, SegmentPlan] | None = None

    def row_multiple(self, dtype: torch.dtype) -> int:
        return self._row_multiples.dense(dtype)

    def adapter_dtype(self, compute: torch.dtype) -> torch.dtype:
        # torch's float32 products of a few rows are several times faster than its bf16 ones.
        return torch.float32

    def pack(
        self,
        weights: Sequence[Nf4Weight],
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> PackedGroup:
        """Dequantise the members into one dense [sum N, K] matrix of `dtype`.

        That costs 2 bytes a weight in bf16, 4 in float32: torch has no CPU product that reads
        NF4 and keeps up with its dense one at more than a few rows.
        """
        check_group(weights, biases)
        weight = torch.cat([weight.dequantize(dtype) for weight in weights]).to(device)
        return CpuGroup(
            in_features=weights[0].shape[1],
            out_features=tuple(weight.shape[0] for weight in weights),
            weight=weight,
            bias=_join_biases(weights, biases, device),
            row_multiple=self._row_multiple_of(weight),
        )

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = isolated_linear(x, weight, self._row_multiple_of(weight))
        return y if bias is None else y + bias

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        assert isinstance(group, CpuGroup)
        z = scaled_inputs(x, tables, routing)
        y = isolated_linear(z, group.weight, group.row_multiple)  # [T, sum N]
        plan = self._plan_of(routing)
        if plan.has_adapters:
            y = add_lowrank(z, y, tables, plan, group.bias)
        elif group.bias is not None:
            y = (y.float() + group.bias).to(y.dtype)
        return y.split_with_sizes(group.out_features, dim=1)

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        refuse_in_gains([table], routing)
        plan = self._plan_of(routing)
        if all(table[slot] is None for slot in plan.slots):
            return y.clone()
        return add_lowrank(x, y.clone(), [table], plan, None)

    def _row_multiple_of(self, weight: Tensor) -> int | None:
        return self._row_multiples.of(weight.dtype, ((weight.shape[0], weight.shape[1]),))

    def _plan_of(self, routing: Routing) -> SegmentPlan:
        """The step's segment plan; every linear of a step comes with the same routing."""
        if self._plan is None or self._plan[0] is not routing:
            multiple = self._row_multiples.low_rank(torch.float32)
            self._plan = (routing, SegmentPlan.build(routing, multiple))
        return self._plan[1]

    def plan_attention(
        self, rows: Sequence[AttentionRow], block_size: int, device: torch.device
    ) -> AttentionPlan:
        return torch_attention.plan_attention(rows, block_size, device)

    def store_kv(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
    ) -> None:
        torch_attention.store_kv(k, v, k_cache, v_cache, slots)

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        plan: AttentionPlan,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        assert isinstance(plan, torch_attention.TorchAttentionPlan)
        return torch_attention.attention(
            q, k_cache, v_cache, plan, scale=scale, window=window, softcap=softcap
        )


def _join_biases(
    weights: Sequence[Nf4Weight], biases: Sequence[Tensor | None], device: torch.device
) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    parts = [
        torch.zeros(weight.shape[0]) if bias is None else bias.float()
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.cat(parts).to(device)
