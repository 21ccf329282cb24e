"""A decoder layer as one call of the native library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels.cpu.native_abi import Layer, LayerCall, NativeLayerStep, Norm
from motet_kernels.cpu.native_attention import NativeAttentionPlan
from motet_kernels.cpu.native_group import NativeGroup
from motet_kernels.cpu.native_routing import NativeRouting
from motet_kernels.decoder_layer import (
    CannotFuse,
    DecoderLayer,
    FusedLayer,
    LayerStep,
    RmsNorm,
)

NUM_TABLES = 7


@dataclass(frozen=True)
class NativeFusedLayer(FusedLayer):
    """The C structs of a layer. They point into the layer's tensors and into `addresses`."""

    dtype: torch.dtype
    native: Layer
    call: LayerCall
    addresses: ctypes.Array[ctypes.c_void_p]  # of the slot tables, written before each call


@dataclass(frozen=True)
class NativeStep:
    """A step as the kernels read it; `native` points into the other fields."""

    step: LayerStep
    routing: NativeRouting
    plan: NativeAttentionPlan
    native: NativeLayerStep
    address: int


def fuse(layer: DecoderLayer) -> NativeFusedLayer:
    """`LayerOps.fuse` for the native path."""
    layer.check_shapes()
    groups = [group.packed for group in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    packed = [group for group in groups if isinstance(group, NativeGroup) and group.dense is None]
    if len(packed) != len(groups):
        raise CannotFuse("a linear of the layer has no packed NF4 weight")
    dtype = packed[0].dtype
    norms = (layer.input_norm, layer.post_norm, layer.query_norm, layer.key_norm)
    if any(norm and norm.weight.dtype != dtype for norm in norms):
        raise CannotFuse(f"a norm of the layer is not {dtype}")
    native = Layer(
        *(ctypes.pointer(group.native) for group in packed),
        *(_norm(norm) for norm in norms),
        *(layer.num_heads, layer.num_kv_heads, layer.head_size),
        *(layer.window or 0, layer.scale, layer.softcap or 0.0),
    )
    addresses = (ctypes.c_void_p * NUM_TABLES)()
    call = LayerCall(layer=ctypes.pointer(native), tables=ctypes.addressof(addresses))
    return NativeFusedLayer(layer, dtype, native, call, addresses)


def lay_out(step: LayerStep, routing: NativeRouting, k_cache: Tensor) -> NativeStep:
    """Check a step once and put it into C's form. Raises ValueError where its parts do not fit."""
    plan, num_tokens = step.attention, routing.num_tokens
    assert isinstance(plan, NativeAttentionPlan)
    num_blocks, block_size = k_cache.shape[:2]
    if plan.num_tokens != num_tokens or step.slots.shape != (num_tokens,):
        raise ValueError(
            f"a step of {num_tokens} tokens has attention for {plan.num_tokens} and "
            f"{list(step.slots.shape)} places for its keys"
        )
    if plan.block_size != block_size or plan.last_block >= num_blocks:
        raise ValueError(
            f"the plan wants block {plan.last_block} of {plan.block_size} positions; there are "
            f"{num_blocks} blocks of {block_size}"
        )
    native = NativeLayerStep(
        *(routing.address, plan.rows.data_ptr(), plan.blocks.data_ptr()),
        *(step.slots.data_ptr(), step.cos.data_ptr(), step.sin.data_ptr()),
        *(routing.num_segments, num_tokens, plan.rows.shape[0], plan.longest),
        *(block_size, num_blocks * block_size),
        *(k_cache.dtype == torch.bfloat16, torch.get_num_threads()),
    )
    return NativeStep(step, routing, plan, native, ctypes.addressof(native))


def check(x: Tensor, fused: NativeFusedLayer, step: NativeStep, *caches: Tensor) -> None:
    """Refuse what would make the kernels read elsewhere: they are handed bare addresses."""
    layer, num_tokens = fused.layer, step.routing.num_tokens
    rotary = (num_tokens, layer.head_size)
    for name, tensor, shape in (
        ("x", x, (num_tokens, layer.qkv.packed.in_features)),
        ("cos", step.step.cos, rotary),
        ("sin", step.step.sin, rotary),
    ):
        if tensor.dtype != fused.dtype or tensor.shape != shape or not tensor.is_contiguous():
            raise ValueError(
                f"{name} must be {fused.dtype} {list(shape)}, contiguous; got {tensor.dtype} "
                f"{list(tensor.shape)}"
            )
    places = (step.native.num_places // step.plan.block_size, step.plan.block_size)
    for cache in caches:
        shape = (*places, layer.num_kv_heads, layer.head_size)
        if cache.dtype != fused.dtype or cache.shape != shape or not cache.is_contiguous():
            raise ValueError(
                f"a cache must be {fused.dtype} {list(shape)}; got {cache.dtype} "
                f"{list(cache.shape)}"
            )
    for table in layer.tables:
        if step.routing.last_slot >= table.num_slots:
            raise ValueError(
                f"slot {step.routing.last_slot} is not in a table of {table.num_slots} slots"
            )


def _norm(norm: RmsNorm | None) -> Norm:
    if norm is None:
        return Norm(None, 0.0)
    if not norm.weight.is_contiguous():
        raise CannotFuse("a norm's weight is not contiguous")
    return Norm(norm.weight.data_ptr(), norm.eps)
