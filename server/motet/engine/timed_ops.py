"""Ops that do what others do and tell a clock how long each took."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from motet_kernels import (
    AttentionPlan,
    AttentionRow,
    DecoderLayer,
    FusedLayers,
    LayerOps,
    LayerStep,
    Nf4Weight,
    Ops,
    PackedDense,
    PackedDenseOps,
    PackedGroup,
    Routing,
    SlotTable,
    TimedLayerOps,
)
from torch import Tensor

from motet.engine.stage_clock import StageClock


def timed(ops: Ops, clock: StageClock) -> Ops:
    """`ops`, every operation of which adds its time to the clock's.

    Whole layers are run as such if the implementation can say where their time goes; if it
    cannot, layers are run module by module.
    """
    if isinstance(ops, LayerOps) and isinstance(ops, TimedLayerOps):
        if isinstance(ops, PackedDenseOps):
            return _WithPackedDense(ops, ops, ops, ops, clock)
        return _WithLayers(ops, ops, ops, clock)
    return _Timed(ops, clock)


class _Timed:
    def __init__(self, ops: Ops, clock: StageClock) -> None:
        self._ops = ops
        self._clock = clock

    @property
    def name(self) -> str:
        return self._ops.name

    def row_multiple(self, dtype: torch.dtype) -> int:
        return self._ops.row_multiple(dtype)

    def adapter_dtype(self, compute: torch.dtype) -> torch.dtype:
        return self._ops.adapter_dtype(compute)

    def pack(
        self,
        weights: Sequence[Nf4Weight],
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> PackedGroup:
        return self._ops.pack(weights, biases, dtype, device)

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with self._clock.stage("lm_head"):
            return self._ops.dense_linear(x, weight, bias)

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        with self._clock.stage("linears"):
            return self._ops.adapted_linear(x, group, tables, routing)

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        with self._clock.stage("adapters"):
            return self._ops.adapt(x, y, table, routing)

    def plan_attention(
        self, rows: Sequence[AttentionRow], block_size: int, device: torch.device
    ) -> AttentionPlan:
        return self._ops.plan_attention(rows, block_size, device)  # bookkeeping, in Python

    def store_kv(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
    ) -> None:
        with self._clock.stage("small"):
            self._ops.store_kv(k, v, k_cache, v_cache, slots)

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
        with self._clock.stage("attention"):
            return self._ops.attention(
                q, k_cache, v_cache, plan, scale=scale, window=window, softcap=softcap
            )


class _WithLayers(_Timed):
    def __init__(
        self, ops: Ops, layers: LayerOps, timed_layers: TimedLayerOps, clock: StageClock
    ) -> None:
        super().__init__(ops, clock)
        self._layers = layers
        self._timed_layers = timed_layers

    def fuse(self, layers: Sequence[DecoderLayer]) -> FusedLayers:
        return self._layers.fuse(layers)

    def decoder_layers(self, x: Tensor, fused: FusedLayers, step: LayerStep) -> Tensor:
        y, seconds = self._timed_layers.timed_decoder_layers(x, fused, step)
        self._clock.add("attention", seconds.attention)
        self._clock.add("linears", seconds.linears)
        self._clock.add("adapters", seconds.adapters)
        self._clock.add("small", seconds.norms + seconds.rotary + seconds.gate)
        return y


class _WithPackedDense(_WithLayers):
    def __init__(
        self,
        ops: Ops,
        layers: LayerOps,
        timed_layers: TimedLayerOps,
        dense: PackedDenseOps,
        clock: StageClock,
    ) -> None:
        super().__init__(ops, layers, timed_layers, clock)
        self._dense = dense

    def pack_dense(self, weight: Tensor, bias: Tensor | None) -> PackedDense | None:
        return self._dense.pack_dense(weight, bias)

    def packed_dense_linear(self, x: Tensor, packed: PackedDense) -> Tensor:
        with self._clock.stage("lm_head"):
            return self._dense.packed_dense_linear(x, packed)
