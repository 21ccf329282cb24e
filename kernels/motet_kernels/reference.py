"""The definition: float32, one token, one query, one head at a time. Slow on purpose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels.attention_layout import AttentionRow, check_rows
from motet_kernels.decoder_layer import AdaptedGroup, DecoderLayer, FusedLayers, LayerStep, RmsNorm
from motet_kernels.in_gain import refuse_in_gains
from motet_kernels.lowrank import LowRank, SlotTable, activated
from motet_kernels.nf4 import Nf4Weight
from motet_kernels.ops import AttentionPlan, PackedGroup, check_group
from motet_kernels.routing import Routing


@dataclass(frozen=True)
class ReferenceGroup(PackedGroup):
    weights: tuple[Tensor, ...]  # float32 [N_j, K]
    biases: tuple[Tensor | None, ...]  # float32 [N_j]


@dataclass(frozen=True)
class ReferencePlan(AttentionPlan):
    rows: tuple[AttentionRow, ...]
    block_size: int


class ReferenceOps:
    """Ops as they are written down. Results are computed in float32 and rounded once."""

    name = "reference"

    def row_multiple(self, dtype: torch.dtype) -> int:
        return 1

    def adapter_dtype(self, compute: torch.dtype) -> torch.dtype:
        return torch.float32

    def pack(
        self,
        weights: Sequence[Nf4Weight],
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> ReferenceGroup:
        check_group(weights, biases)
        return ReferenceGroup(
            in_features=weights[0].shape[1],
            out_features=tuple(weight.shape[0] for weight in weights),
            weights=tuple(weight.to(device).dequantize(torch.float32) for weight in weights),
            biases=tuple(None if bias is None else bias.to(device).float() for bias in biases),
        )

    def largest(self, logits: Tensor) -> Tensor:
        places = []
        for row in logits.float().tolist():
            valid = all(value < math.inf for value in row) and max(row) > -math.inf
            places.append(row.index(max(row)) if valid else -1)
        return torch.tensor(places, dtype=torch.int64)

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = x.new_empty(x.shape[0], weight.shape[0])
        for t, row in enumerate(x.float()):
            value = weight.float() @ row
            y[t] = value if bias is None else value + bias.float()
        return y

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        assert isinstance(group, ReferenceGroup)
        if len(tables) > 1:
            refuse_in_gains(tables, routing)
        outputs = tuple(x.new_empty(x.shape[0], n) for n in group.out_features)
        for slot, start, stop in routing.segments:
            for t in range(start, stop):
                for j, y in enumerate(outputs):
                    y[t] = _adapted_row(
                        _row(x, t), group.weights[j], group.biases[j], tables[j], slot
                    )
        return outputs

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        refuse_in_gains([table], routing)
        out = y.clone()
        for slot, start, stop in routing.segments:
            lowrank = table[slot]
            for t in range(start, stop) if lowrank is not None else ():
                assert lowrank is not None
                out[t] = _with_adapter(_row(x, t), _row(y, t), lowrank)
        return out

    def plan_attention(
        self, rows: Sequence[AttentionRow], block_size: int, device: torch.device
    ) -> ReferencePlan:
        num_tokens = check_rows(rows, block_size)
        return ReferencePlan(num_tokens, tuple(rows), block_size)

    def store_kv(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
    ) -> None:
        block_size = k_cache.shape[1]
        for t, slot in enumerate(slots.tolist()):
            block, offset = divmod(slot, block_size)
            k_cache[block, offset] = k[t]
            v_cache[block, offset] = v[t]

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
        assert isinstance(plan, ReferencePlan)
        num_heads, num_kv_heads = q.shape[1], k_cache.shape[2]
        out = q.new_empty(q.shape[0], num_heads, v_cache.shape[3])
        for row in plan.rows:
            for i in range(row.num_tokens):
                position = row.kv_len - row.num_tokens + i
                first = 0 if window is None else max(0, position - window + 1)
                places = [
                    (row.blocks[p // plan.block_size], p % plan.block_size)
                    for p in range(first, position + 1)
                ]
                for head in range(num_heads):
                    kv_head = head // (num_heads // num_kv_heads)
                    keys = torch.stack([k_cache[b, o, kv_head].float() for b, o in places])
                    values = torch.stack([v_cache[b, o, kv_head].float() for b, o in places])
                    scores = scale * (keys @ q[row.start + i, head].float())
                    if softcap is not None:
                        scores = softcap * torch.tanh(scores / softcap)
                    out[row.start + i, head] = torch.softmax(scores, dim=0) @ values
        return out

    def fuse(self, layers: Sequence[DecoderLayer]) -> FusedLayers:
        for layer in layers:
            layer.check_shapes()
        return FusedLayers(tuple(layers))

    def decoder_layers(self, x: Tensor, fused: FusedLayers, step: LayerStep) -> Tensor:
        for layer in fused.layers:
            x = self._decoder_layer(x, layer, step)
        return x

    def _decoder_layer(self, x: Tensor, layer: DecoderLayer, step: LayerStep) -> Tensor:
        normed = _rms_norm(x, layer.input_norm, step)
        projected = self._linear(normed, layer.qkv, step)
        q, k, v = (part.reshape(len(x), -1, layer.head_size) for part in projected)
        q = _rotated(_rms_norm(q, layer.query_norm, step), step)
        k = _rotated(_rms_norm(k, layer.key_norm, step), step)
        self.store_kv(k, v, layer.k_cache, layer.v_cache, step.slots)
        attended = self.attention(
            q,
            layer.k_cache,
            layer.v_cache,
            step.attention,
            scale=layer.scale,
            window=layer.window,
            softcap=layer.softcap,
        )
        (output,) = self._linear(attended.flatten(1), layer.output, step)
        hidden = x + output
        normed = _rms_norm(hidden, layer.post_norm, step)
        gate, up = self._linear(normed, layer.gate_up, step)
        (down,) = self._linear(torch.nn.functional.silu(gate) * up, layer.down, step)
        y = hidden + down
        on_output = layer.output_adapters
        return y if on_output is None else self.adapt(y, y, on_output, step.routing)

    def _linear(self, x: Tensor, group: AdaptedGroup, step: LayerStep) -> tuple[Tensor, ...]:
        return self.adapted_linear(x, group.packed, group.tables, step.routing)


def _row(x: Tensor, t: int) -> Tensor:
    """Copied: where a row lies in memory may decide the order of a sum."""
    return x[t].float().clone()


def _adapted_row(
    x: Tensor, weight: Tensor, bias: Tensor | None, table: SlotTable, slot: int
) -> Tensor:
    lowrank = table[slot]
    if lowrank is not None and lowrank.in_gain is not None:
        x = lowrank.in_gain.float() * x
    y = weight @ x  # [N]
    if lowrank is not None:
        y = _with_adapter(x, y, lowrank)
    return y if bias is None else y + bias


def _with_adapter(z: Tensor, y: Tensor, lowrank: LowRank) -> Tensor:
    """gain * (y + delta_gain * B activation(core (A z) + inner_bias)) + bias; all float32."""
    u = lowrank.a.float() @ z  # [R]
    if lowrank.core is not None:
        u = (lowrank.core.values.float() * u[lowrank.core.columns.long()]).sum(1)
    if lowrank.inner_bias is not None:
        u = u + lowrank.inner_bias.float()
    delta = lowrank.bt.float().T @ activated(u, lowrank.activation)
    if lowrank.delta_gain is not None:
        delta = lowrank.delta_gain.float() * delta
    y = y + delta
    if lowrank.gain is not None:
        y = lowrank.gain.float() * y
    return y if lowrank.bias is None else y + lowrank.bias.float()


def _rms_norm(x: Tensor, norm: RmsNorm | None, step: LayerStep) -> Tensor:
    """x [T, size] or [T, heads, size] -> the same shape; None leaves x as it is."""
    if norm is None:
        return x
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)
    weight = norm.weight
    if norm.table is not None:
        weight = norm.table.rows(weight, step.routing)
    if weight.dim() == 2 and x.dim() == 3:
        weight = weight[:, None]
    return weight * (wide * scale).to(x.dtype)


def _rotated(x: Tensor, step: LayerStep) -> Tensor:
    """x [T, heads, D]; Su et al. 2021, https://arxiv.org/abs/2104.09864, pairs (i, i + D / 2)."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * step.cos[:, None] + turned * step.sin[:, None]
