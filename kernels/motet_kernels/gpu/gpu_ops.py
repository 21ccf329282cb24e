"""Ops for CUDA, in Triton."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from motet_kernels.attention_layout import AttentionRow
from motet_kernels.gpu import paged_attention
from motet_kernels.gpu.attention_plan import (
    GpuAttentionPlan,
    HostPlan,
    launched_splits,
    plan_attention,
)
from motet_kernels.gpu.dense_product import ROW_MULTIPLE, product_in_blocks
from motet_kernels.gpu.lowrank_product import LowRankProduct
from motet_kernels.gpu.nf4_layout import PackedNf4
from motet_kernels.gpu.nf4_linear import Nf4Product
from motet_kernels.gpu.sampling_kernel import choose
from motet_kernels.gpu.store_kv_kernel import store_kv
from motet_kernels.gpu.tiles import Tiles
from motet_kernels.gpu.tuning import TuningTable
from motet_kernels.gpu.tuning_files import tuning_of
from motet_kernels.lowrank import SlotTable
from motet_kernels.nf4 import Nf4Weight
from motet_kernels.ops import AttentionPlan, PackedGroup, check_group
from motet_kernels.routing import Routing
from motet_kernels.sampling import Draw
from motet_kernels.staged import LaunchShape, Place


@dataclass(frozen=True)
class GpuGroup(PackedGroup):
    weight: PackedNf4  # on the device
    bias: Tensor  # float32 [sum N_j], zero where a member has none


class GpuOps:
    """Every op on a CUDA device, under the isolation promise of `ops.py`.

    fast_math gives up that promise for linears: a row's bits then depend on how many rows there
    are, because few rows and many are computed by other kernels, with sums in another order.
    tuning: None for the device's own table.
    """

    name = "gpu"

    def __init__(self, *, fast_math: bool = False, tuning: TuningTable | None = None) -> None:
        self._fast_math = fast_math
        self._staged: list[tuple[Routing, Tiles]] = []  # of the step
        self._latest: list[tuple[Routing, Tiles]] = []  # of one that was not, such as an expert's
        self._products: tuple[LowRankProduct, Nf4Product] | None = None
        self._tuning = tuning

    def row_multiple(self, dtype: torch.dtype) -> int:
        return 1 if self._fast_math else ROW_MULTIPLE

    def adapter_dtype(self, compute: torch.dtype) -> torch.dtype:
        return compute

    def pack(
        self,
        weights: Sequence[Nf4Weight],
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> GpuGroup:
        check_group(weights, biases)
        sizes = tuple(weight.shape[0] for weight in weights)
        parts = [
            torch.zeros(n) if bias is None else bias.float().cpu()
            for n, bias in zip(sizes, biases, strict=True)
        ]
        packed = PackedNf4.pack(weights, device)
        return GpuGroup(packed.in_features, sizes, packed, torch.cat(parts).to(device))

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self._fast_math:
            return F.linear(x, weight, bias)
        y = product_in_blocks(x, weight)
        return y if bias is None else y + bias

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        assert isinstance(group, GpuGroup)
        if x.shape[0] == 0:
            return tuple(x.new_empty(0, n) for n in group.out_features)
        lowrank, nf4 = self._products_on(x.device)
        tiles = self._tiles_of(routing, x.device)
        z = lowrank.scaled(x.contiguous(), tables, tiles)
        shrunk = lowrank.shrink(z, tables, tiles)
        y = nf4(z, group.weight, group.bias, shrunk, tiles)
        return torch.split(y, list(group.out_features), dim=1)

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        tiles = self._tiles_of(routing, x.device)
        return self._products_on(x.device)[0].adapt(x, y, table, tiles)

    def _products_on(self, device: torch.device) -> tuple[LowRankProduct, Nf4Product]:
        if self._products is None:
            tuning = self._tuning_on(device)
            lowrank = LowRankProduct(tuning, fast_math=self._fast_math)
            nf4 = Nf4Product(tuning, lowrank, fast_math=self._fast_math)
            self._products = (lowrank, nf4)
        return self._products

    def _tuning_on(self, device: torch.device) -> TuningTable:
        if self._tuning is None:
            self._tuning = tuning_of(device)
        return self._tuning

    def _tiles_of(self, routing: Routing, device: torch.device) -> Tiles:
        """The step's tiles; every linear of a step comes with the same routing."""
        for known, tiles in (*self._staged, *self._latest):
            if known is routing:
                return tiles
        self._latest = [(routing, Tiles.build(routing, device))]
        return self._latest[0][1]

    def launch_shape(
        self,
        routings: Sequence[Routing],
        rows: Sequence[AttentionRow],
        num_slots: int,
        device: torch.device,
    ) -> LaunchShape:
        adapted = any(segment.slot for routing in routings for segment in routing.segments)
        split_len = self._tuning_on(device).attention_split_len
        return LaunchShape(launched_splits(rows, split_len), num_slots if adapted else 1)

    def stage(
        self,
        routings: Sequence[Routing],
        rows: Sequence[AttentionRow],
        block_size: int,
        device: torch.device,
        place: Place,
        shape: LaunchShape | None,
    ) -> AttentionPlan:
        slots, splits = (None, None) if shape is None else (shape.num_slots, shape.num_splits)
        self._staged = [(routing, Tiles.at(routing, place, slots)) for routing in routings]
        split_len = self._tuning_on(device).attention_split_len
        plan = HostPlan.build(rows, block_size, split_len, splits)
        return plan.on(place(plan.table))

    def settle(self, groups: Sequence[Sequence[SlotTable]], dtype: torch.dtype) -> Hashable:
        lowrank, _ = self._products_on(groups[0][0].device)
        return tuple(lowrank.members(tables, dtype).launched_for for tables in groups)

    def choose(self, logits: Tensor, draws: list[Draw]) -> Tensor:
        return choose(logits, draws)

    def plan_attention(
        self, rows: Sequence[AttentionRow], block_size: int, device: torch.device
    ) -> AttentionPlan:
        split_len = self._tuning_on(device).attention_split_len
        return plan_attention(rows, block_size, split_len, device)

    def store_kv(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
    ) -> None:
        store_kv(k, v, k_cache, v_cache, slots)

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
        assert isinstance(plan, GpuAttentionPlan)
        config = self._tuning_on(q.device).attention(q.shape[2])
        return paged_attention.attention(
            q, k_cache, v_cache, plan, config, scale=scale, window=window, softcap=softcap
        )
