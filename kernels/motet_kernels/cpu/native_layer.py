"""Decoder layers as one call of the native library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels.cpu.native_abi import Layer, NativeLayerStep, Norm
from motet_kernels.cpu.native_attention import NativeAttentionPlan
from motet_kernels.cpu.native_group import NativeGroup, native_group
from motet_kernels.cpu.native_routing import NativeRouting
from motet_kernels.decoder_layer import (
    CannotFuse,
    DecoderLayer,
    FusedLayers,
    LayerStep,
    RmsNorm,
)
from motet_kernels.in_gain import refuse_in_gains
from motet_kernels.lowrank import SlotTable
from motet_kernels.norm_table import NormTable


class TableAddresses:
    """The tables of fused layers, and where the kernels find them in each call."""

    def __init__(self, tables: Sequence[SlotTable | NormTable | None]) -> None:
        """None leaves an address of zero."""
        self._tables = [(i, table) for i, table in enumerate(tables) if table is not None]
        self._addresses = (ctypes.c_void_p * len(tables))()
        self._written_changes = -1
        self.num_slots = min(table.num_slots for _, table in self._tables)

    def of(self, index: int) -> int:
        """Where the address of that table is."""
        return ctypes.addressof(self._addresses) + index * ctypes.sizeof(ctypes.c_void_p)

    def write(self, dtype: torch.dtype) -> None:
        """Bring the addresses up to date."""
        changes = sum(table.num_changes for _, table in self._tables)
        if changes == self._written_changes:  # as in most steps
            return
        for index, table in self._tables:
            # kept by the table until its next change
            self._addresses[index] = table.pointers(dtype).data_ptr()
        self._written_changes = changes


@dataclass(frozen=True)
class NativeFusedLayers(FusedLayers):
    """C structs that point into the layers' tensors and into each other."""

    dtype: torch.dtype
    pointers: ctypes.Array[ctypes.c_void_p]  # of the layers' structs
    structs: tuple[Layer, ...]
    tables: TableAddresses
    not_to_scale: tuple[SlotTable, ...]  # of inputs that no single linear has to itself


@dataclass(frozen=True)
class NativeStep:
    """A step as the kernels read it; `native` points into the other fields."""

    step: LayerStep
    routing: NativeRouting
    native: NativeLayerStep
    address: int


def fuse(layers: Sequence[DecoderLayer]) -> NativeFusedLayers:
    """`LayerOps.fuse` for the native path."""
    for layer in layers:
        layer.check_shapes()
    dtype = layers[0].k_cache.dtype
    caches = [cache for layer in layers for cache in (layer.k_cache, layer.v_cache)]
    shape = caches[0].shape
    if any(c.shape != shape or c.dtype != dtype or not c.is_contiguous() for c in caches):
        raise CannotFuse("the layers' caches are not all alike")
    found: list[SlotTable | NormTable | None] = []
    for layer in layers:
        found += [*layer.tables, layer.output_adapters]
        found += [None if norm is None else norm.table for norm in _norms(layer)]
    tables, each = TableAddresses(found), len(found) // len(layers)
    structs = [_struct(layer, dtype, tables, i * each) for i, layer in enumerate(layers)]
    pointers = (ctypes.c_void_p * len(structs))(*map(ctypes.addressof, structs))
    not_to_scale = tuple(table for layer in layers for table in _not_to_scale(layer))
    return NativeFusedLayers(tuple(layers), dtype, pointers, tuple(structs), tables, not_to_scale)


def _norms(layer: DecoderLayer) -> tuple[RmsNorm | None, ...]:
    return (layer.input_norm, layer.post_norm, layer.query_norm, layer.key_norm)


def _not_to_scale(layer: DecoderLayer) -> Sequence[SlotTable]:
    on_output = [] if layer.output_adapters is None else [layer.output_adapters]
    return [*layer.qkv.tables, *layer.gate_up.tables, *on_output]


def _struct(layer: DecoderLayer, dtype: torch.dtype, tables: TableAddresses, first: int) -> Layer:
    """first: the index of the layer's first table."""
    groups = [group.packed for group in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    packed = [group for group in groups if isinstance(group, NativeGroup) and group.dense is None]
    if len(packed) != len(groups) or any(group.dtype != dtype for group in packed):
        raise CannotFuse("a linear of the layer has no packed NF4 weight")
    hidden, first_norm = layer.qkv.packed.in_features, first + len(layer.tables) + 1
    on_output = None if layer.output_adapters is None else native_group(hidden, [hidden])
    return Layer(
        *(ctypes.pointer(group.native) for group in packed),
        *(_norm(norm, dtype, tables.of(first_norm + i)) for i, norm in enumerate(_norms(layer))),
        *(layer.num_heads, layer.num_kv_heads, layer.head_size),
        *(layer.window or 0, layer.scale, layer.softcap or 0.0),
        *(layer.k_cache.data_ptr(), layer.v_cache.data_ptr()),
        *(None if on_output is None else ctypes.pointer(on_output), tables.of(first)),
    )


def _norm(norm: RmsNorm | None, dtype: torch.dtype, table: int) -> Norm:
    """table: where the address of the norm's table will be."""
    if norm is None:
        return Norm(None, 0.0, None)
    if norm.weight.dtype != dtype or not norm.weight.is_contiguous():
        raise CannotFuse(f"a norm's weight is not {dtype}, or not contiguous")
    return Norm(norm.weight.data_ptr(), norm.eps, None if norm.table is None else table)


def lay_out(step: LayerStep, routing: NativeRouting, fused: NativeFusedLayers) -> NativeStep:
    """A step in C's form. Raises ValueError where its parts do not fit: the kernels are handed
    bare addresses."""
    layer, plan, num_tokens = fused.layers[0], step.attention, routing.num_tokens
    assert isinstance(plan, NativeAttentionPlan)
    num_blocks, block_size = layer.k_cache.shape[:2]
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
    num_slots = fused.tables.num_slots
    if routing.last_slot >= num_slots:
        raise ValueError(f"slot {routing.last_slot} is not in a table of {num_slots} slots")
    refuse_in_gains(fused.not_to_scale, step.routing)
    rotary = (num_tokens, layer.head_size)
    check("cos", step.cos, rotary, fused.dtype)
    check("sin", step.sin, rotary, fused.dtype)
    native = NativeLayerStep(
        *(routing.address, plan.rows.data_ptr(), plan.blocks.data_ptr()),
        *(step.slots.data_ptr(), step.cos.data_ptr(), step.sin.data_ptr()),
        *(routing.num_segments, num_tokens, plan.rows.shape[0], plan.longest),
        *(block_size, num_blocks * block_size),
        *(fused.dtype == torch.bfloat16, torch.get_num_threads()),
    )
    return NativeStep(step, routing, native, ctypes.addressof(native))


def check_fit(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise ValueError unless the tensor is of the size that the kernels will take it to be."""
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ValueError(
            f"{name} must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
        )


def check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The same, and that it is contiguous."""
    check_fit(name, tensor, shape, dtype)
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous")
