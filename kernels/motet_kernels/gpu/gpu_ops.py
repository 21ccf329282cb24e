"""Ops for CUDA: the adapter half in Triton, the NF4 half dequantised by bitsandbytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from motet_kernels import torch_attention
from motet_kernels.attention_layout import AttentionRow
from motet_kernels.gpu.lowrank_product import LowRankProduct
from motet_kernels.gpu.tiles import Tiles
from motet_kernels.gpu.tuning_files import tuning_of
from motet_kernels.lowrank import SlotTable
from motet_kernels.nf4 import Nf4Weight
from motet_kernels.ops import AttentionPlan, PackedGroup, check_group
from motet_kernels.routing import Routing

# Dense products are computed in blocks of exactly this many rows. cuBLAS chooses its kernel by the
# number of rows, so one shape for all is what keeps a row's bits independent of its neighbours.
BLOCK_ROWS = 64


@dataclass(frozen=True)
class GpuGroup(PackedGroup):
    weights: tuple[Nf4Weight, ...]  # on the device
    biases: tuple[Tensor | None, ...]  # float32 [N_j]


class GpuOps:
    """Every op on a CUDA device, under the isolation promise of `ops.py`.

    The weights stay in NF4; each call dequantises them to the compute dtype, which costs their
    size in that dtype in memory traffic. bitsandbytes' fused products would read less, but take
    another path for one row than for many, with other bits.
    """

    name = "gpu"

    def __init__(self) -> None:
        self._tiles: tuple[Routing, Tiles] | None = None
        self._lowrank: LowRankProduct | None = None

    def row_multiple(self, dtype: torch.dtype) -> int:
        return BLOCK_ROWS

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
        return GpuGroup(
            in_features=weights[0].shape[1],
            out_features=tuple(weight.shape[0] for weight in weights),
            weights=tuple(weight.to(device) for weight in weights),
            biases=tuple(None if bias is None else bias.to(device).float() for bias in biases),
        )

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padded = F.pad(x, (0, 0, 0, -x.shape[0] % BLOCK_ROWS))
        blocks = padded.split_with_sizes([BLOCK_ROWS] * (padded.shape[0] // BLOCK_ROWS))
        parts = [F.linear(block, weight) for block in blocks]
        y = (parts[0] if len(parts) == 1 else torch.cat(parts))[: x.shape[0]]
        return y if bias is None else y + bias

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        assert isinstance(group, GpuGroup)
        lowrank = self._lowrank_on(x.device)
        tiles = self._tiles_of(routing, x.device)
        z = lowrank.scaled(x, tables, tiles)
        shrunk = lowrank.shrink(z, tables, tiles)
        parts = [self.dense_linear(z, w.dequantize(x.dtype), None) for w in group.weights]
        y, bias = torch.cat(parts, dim=1), _side_by_side(group, x.device)
        if shrunk is not None:
            y = lowrank.expand(y, shrunk, tiles, bias)
        elif bias is not None:
            y = (y.float() + bias).to(x.dtype)
        return y.split(list(group.out_features), dim=1)

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        tiles = self._tiles_of(routing, x.device)
        return self._lowrank_on(x.device).adapt(x, y, table, tiles)

    def _lowrank_on(self, device: torch.device) -> LowRankProduct:
        if self._lowrank is None:
            self._lowrank = LowRankProduct(tuning_of(device))
        return self._lowrank

    def _tiles_of(self, routing: Routing, device: torch.device) -> Tiles:
        """The step's tiles; every linear of a step comes with the same routing."""
        if self._tiles is None or self._tiles[0] is not routing:
            self._tiles = (routing, Tiles.build(routing, device))
        return self._tiles[1]

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


def _side_by_side(group: GpuGroup, device: torch.device) -> Tensor | None:
    """The members' biases, float32 [sum N], zero where a member has none."""
    if all(bias is None for bias in group.biases):
        return None
    pairs = zip(group.biases, group.out_features, strict=True)
    return torch.cat([torch.zeros(n, device=device) if b is None else b for b, n in pairs])
