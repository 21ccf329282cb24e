"""Whole decoder layers as one operation, for implementations that have one.

The layer is the one of Llama and its kin: pre-norms, grouped-query attention with rotary
embeddings, a SiLU-gated MLP, each linear with its own adapters. With n = rms_norm(x):

    h = x + output(attention(rotary(q(n)), rotary(k(n)), v(n)))
    y = h + down(silu(gate(rms_norm(h))) * up(rms_norm(h)))

and where a token's slot has them, norms with weights of its own and adapters on the whole layer,
y = adapt(y, y). Every step's result is rounded to x's dtype, as where each is an operation of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from motet_kernels.lowrank import SlotTable
from motet_kernels.norm_table import NormTable
from motet_kernels.ops import AttentionPlan, PackedGroup
from motet_kernels.routing import Routing


@dataclass(frozen=True)
class RmsNorm:
    """weight * (x / sqrt(mean(x^2) + eps)), the quotient rounded to x's dtype first.

    Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467, equation 4.
    """

    weight: Tensor  # [size], in the dtype of the layer's inputs
    eps: float
    table: NormTable | None = None  # of slots with a weight of their own


@dataclass(frozen=True)
class AdaptedGroup:
    """Linears that share an input, and each one's adapters."""

    packed: PackedGroup
    tables: tuple[SlotTable, ...]


@dataclass(frozen=True)
class DecoderLayer:
    """One layer's parts. H hidden size, D head size, I size of the MLP."""

    qkv: AdaptedGroup  # [Hq * D, H], [Hkv * D, H] twice
    output: AdaptedGroup  # [H, Hq * D]
    gate_up: AdaptedGroup  # [I, H] twice
    down: AdaptedGroup  # [H, I]
    input_norm: RmsNorm  # [H]
    post_norm: RmsNorm  # [H], before the MLP
    query_norm: RmsNorm | None  # [D], of each head before its rotation
    key_norm: RmsNorm | None  # [D]
    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int | None
    softcap: float | None
    k_cache: Tensor  # [P, block_size, Hkv, D]
    v_cache: Tensor
    output_adapters: SlotTable | None = None  # [H, H], on y; without in_gain

    @property
    def tables(self) -> tuple[SlotTable, ...]:
        """q, k, v, output, gate, up, down."""
        groups = (self.qkv, self.output, self.gate_up, self.down)
        return tuple(table for group in groups for table in group.tables)

    def check_shapes(self) -> None:
        """Raise ValueError unless the parts fit each other."""
        size, heads, kv_heads = self.head_size, self.num_heads, self.num_kv_heads
        hidden, inner = self.qkv.packed.in_features, self.down.packed.in_features
        wanted = (
            (self.qkv, hidden, (heads * size, kv_heads * size, kv_heads * size)),
            (self.output, heads * size, (hidden,)),
            (self.gate_up, hidden, (inner, inner)),
            (self.down, inner, (hidden,)),
        )
        for group, in_features, out_features in wanted:
            packed = group.packed
            if (packed.in_features, packed.out_features) != (in_features, out_features):
                raise ValueError(
                    f"a group of the layer is {packed.in_features} -> {packed.out_features}, "
                    f"expected {in_features} -> {out_features}"
                )
        if size % 2 or heads % kv_heads:
            raise ValueError(f"{heads} heads of size {size} over {kv_heads} key heads do not go")
        for norm, length in (
            (self.input_norm, hidden),
            (self.post_norm, hidden),
            (self.query_norm, size),
            (self.key_norm, size),
        ):
            if norm is None:
                continue
            if tuple(norm.weight.shape) != (length,):
                raise ValueError(f"a norm of {tuple(norm.weight.shape)}, expected ({length},)")
            if norm.table is not None and norm.table.size != length:
                raise ValueError(f"a norm table for {norm.table.size}, expected {length}")
        on_output = self.output_adapters
        if on_output is not None and {on_output.in_features, on_output.out_features} != {hidden}:
            raise ValueError(f"adapters on the layer's output must be {hidden} -> {hidden}")
        for cache in (self.k_cache, self.v_cache):
            if cache.dim() != 4 or tuple(cache.shape[2:]) != (kv_heads, size):
                raise ValueError(
                    f"a cache must be [P, block_size, {kv_heads}, {size}], got {list(cache.shape)}"
                )


@dataclass(frozen=True)
class LayerStep:
    """What all layers of a step share. cos and sin [T, D] rotate the step's positions."""

    routing: Routing
    attention: AttentionPlan
    slots: Tensor  # int64 [T], as for store_kv
    cos: Tensor
    sin: Tensor


class CannotFuse(ValueError):
    """This implementation cannot run this layer as one operation; the message says why."""


@dataclass(frozen=True)
class FusedLayers:
    """Layers in the form one implementation reads. Opaque to callers."""

    layers: tuple[DecoderLayer, ...]


@runtime_checkable
class LayerOps(Protocol):
    """What an implementation of Ops has besides if it runs whole layers."""

    def fuse(self, layers: Sequence[DecoderLayer]) -> FusedLayers:
        """Prepare layers that follow each other, whose groups this implementation packed.

        Their caches are of one shape. Their tables are looked up in each call and may change.
        Raises CannotFuse where this implementation cannot run them, ValueError where parts do not
        fit.
        """

    def decoder_layers(self, x: Tensor, fused: FusedLayers, step: LayerStep) -> Tensor:
        """x [T, H] through the layers -> y [T, H] of x's dtype, under the isolation promise.

        The step's keys and values go into each layer's caches at `step.slots` before anything of
        that layer is attended to.
        """
