"""Ops for the CPU in C++: NF4 products, with the adapters added while a result is in registers."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from motet_kernels.attention_layout import AttentionRow
from motet_kernels.cpu import native_attention, native_layer
from motet_kernels.cpu.cpu_ops import CpuGroup, CpuOps
from motet_kernels.cpu.native_abi import (
    OUTSIDE_THE_CACHE,
    STAGES,
    DenseCall,
    Group,
    LargestCall,
    LayersCall,
    LinearCall,
)
from motet_kernels.cpu.native_attention import NativeAttentionPlan
from motet_kernels.cpu.native_group import NativeGroup, can_pack, native_group, pack_weights
from motet_kernels.cpu.native_layer import NativeFusedLayers
from motet_kernels.cpu.native_library import NativeLibrary
from motet_kernels.cpu.native_routing import NativeRouting
from motet_kernels.cpu.row_multiple import isolated_linear
from motet_kernels.decoder_layer import DecoderLayer, FusedLayers, LayerStep
from motet_kernels.in_gain import refuse_in_gains, scaled_inputs
from motet_kernels.layer_seconds import LayerSeconds
from motet_kernels.lowrank import SlotTable
from motet_kernels.nf4 import Nf4Weight
from motet_kernels.ops import AttentionPlan, PackedGroup, check_group
from motet_kernels.routing import Routing

_DTYPES = (torch.float32, torch.bfloat16)


class NativeCpuOps:
    """Linears and attention in C++, unquantised linears as CpuOps has them.

    A row's sums have one order, whatever the number of rows, of threads, and its neighbours: see
    native/product.h. The product reads NF4 as it is; where K is not a multiple of 4 it is torch's
    dense one and only the adapters are native. Not for calls from several threads at once.
    """

    def __init__(self, level: str | None = None) -> None:
        """level: "avx512-bf16", "avx512", "avx2" or "portable"; None: the best that runs here.

        Raises BuildFailed where the library cannot be made, ValueError for a level this machine
        cannot run.
        """
        self._torch = CpuOps()
        self._library = NativeLibrary(level)
        self.level = self._library.level
        self.name = f"cpu-native ({self.level})"
        self._routing: NativeRouting | None = None
        self._groups: dict[tuple[int, int], Group] = {}  # [N, K] without weights, for `adapt`
        self._call = LinearCall()
        self._call_address = ctypes.addressof(self._call)

    def row_multiple(self, dtype: torch.dtype) -> int:
        return self._torch.row_multiple(dtype)

    def adapter_dtype(self, compute: torch.dtype) -> torch.dtype:
        return compute if compute in _DTYPES else torch.float32

    def pack(
        self,
        weights: Sequence[Nf4Weight],
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        device: torch.device,
    ) -> PackedGroup:
        """Pack the members for the kernels: about 4.5 bits a weight where K is a multiple of 64."""
        check_group(weights, biases)
        if dtype not in _DTYPES:
            return self._torch.pack(weights, biases, dtype, device)
        bias = _join_biases(weights, biases)
        dense: CpuGroup | None = None
        if can_pack(weights[0].shape[1]):
            weight = pack_weights(self._library, weights)
        else:
            packed = self._torch.pack(weights, [None] * len(weights), dtype, device)
            assert isinstance(packed, CpuGroup)
            weight, dense = packed.weight, packed
        in_features, outs = weights[0].shape[1], tuple(weight.shape[0] for weight in weights)
        return NativeGroup(
            in_features=in_features,
            out_features=outs,
            dtype=dtype,
            weight=weight,
            bias=bias,
            dense=dense,
            native=native_group(in_features, outs, weight if dense is None else None, bias),
        )

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.dtype not in _DTYPES or weight.dtype != x.dtype or not weight.is_contiguous():
            return self._torch.dense_linear(x, weight, bias)
        (num_tokens, k), n = x.shape, weight.shape[0]
        if weight.shape[1] != k or (bias is not None and tuple(bias.shape) != (n,)):
            raise ValueError(f"x {list(x.shape)} and bias do not fit a weight {list(weight.shape)}")
        x, y = x.contiguous(), x.new_empty(num_tokens, n)
        bias = None if bias is None else bias.to(x.dtype).contiguous()
        call = DenseCall(
            *(x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr()),
            *(y.data_ptr(), num_tokens, k, n),
            *(x.dtype == torch.bfloat16, torch.get_num_threads()),
        )
        if self._library.dense(ctypes.addressof(call)):
            raise MemoryError(f"no memory for a step of {num_tokens} tokens")
        return y

    def largest(self, logits: Tensor) -> Tensor:
        if logits.dtype not in _DTYPES:
            logits = logits.float()  # exact: what is left is float16
        logits = logits.contiguous()
        places = torch.empty(logits.shape[0], dtype=torch.int64)
        call = LargestCall(
            *(logits.data_ptr(), places.data_ptr(), *logits.shape),
            *(logits.dtype == torch.bfloat16, torch.get_num_threads()),
        )
        self._library.largest(ctypes.addressof(call))
        return places

    def fuse(self, layers: Sequence[DecoderLayer]) -> FusedLayers:
        return native_layer.fuse(layers)

    def decoder_layers(self, x: Tensor, fused: FusedLayers, step: LayerStep) -> Tensor:
        return self._decoder_layers(x, fused, step, seconds=None)

    def timed_decoder_layers(
        self, x: Tensor, fused: FusedLayers, step: LayerStep
    ) -> tuple[Tensor, LayerSeconds]:
        seconds = (ctypes.c_double * len(STAGES))()
        y = self._decoder_layers(x, fused, step, ctypes.addressof(seconds))
        return y, LayerSeconds(**dict(zip(STAGES, seconds, strict=True)))

    def _decoder_layers(
        self, x: Tensor, fused: FusedLayers, step: LayerStep, seconds: int | None
    ) -> Tensor:
        """seconds: the address of a double for each of STAGES, which are added to."""
        assert isinstance(fused, NativeFusedLayers)
        laid_out = native_layer.lay_out(step, self._routing_of(step.routing), fused)
        num_tokens = laid_out.routing.num_tokens
        shape = (num_tokens, fused.layers[0].qkv.packed.in_features)
        native_layer.check("x", x, shape, fused.dtype)
        fused.tables.write(fused.dtype)
        y = torch.empty_like(x)
        call = LayersCall(
            *(ctypes.addressof(fused.pointers), laid_out.address, x.data_ptr(), y.data_ptr()),
            *(seconds, len(fused.layers)),
        )
        failure = self._library.layers(ctypes.addressof(call))
        if failure == OUTSIDE_THE_CACHE:
            raise IndexError("a place for a key lies outside the cache")
        if failure:
            raise MemoryError(f"no memory for a step of {num_tokens} tokens")
        return y

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        if not isinstance(group, NativeGroup):
            return self._torch.adapted_linear(x, group, tables, routing)
        step = self._routing_of(routing)
        self._check(x, group, tables, step)
        if len(tables) > 1:
            refuse_in_gains(tables, routing)
        x = x.contiguous()
        base = None
        if group.dense is not None:
            x = scaled_inputs(x, tables, routing)
            base = isolated_linear(x, group.weight, group.dense.row_multiple).contiguous()
        y = self._linear(x, base, group.native, tables, step)
        return y.split_with_sizes(group.out_features, dim=1)

    def adapt(self, x: Tensor, y: Tensor, table: SlotTable, routing: Routing) -> Tensor:
        if y.dtype not in _DTYPES:
            return self._torch.adapt(x, y, table, routing)
        refuse_in_gains([table], routing)
        step, (k, n) = self._routing_of(routing), (table.in_features, table.out_features)
        native_layer.check_fit("x", x, (step.num_tokens, k), y.dtype)
        native_layer.check_fit("y", y, (step.num_tokens, n), y.dtype)
        _check_slots(table, step)
        if all(table[segment.slot] is None for segment in step.segments):
            return y.clone()
        group = self._groups.get((k, n))
        if group is None:
            group = self._groups[k, n] = native_group(k, [n])
        return self._linear(x.contiguous(), y.contiguous(), group, [table], step)

    def _linear(
        self,
        x: Tensor,
        base: Tensor | None,
        group: Group,
        tables: Sequence[SlotTable],
        step: NativeRouting,
    ) -> Tensor:
        """One call of the library; base [T, sum N]: the product, where the group has no weight."""
        y = x.new_empty(step.num_tokens, group.out_features)
        slots = [table.pointers(x.dtype) for table in tables]
        addresses = (ctypes.c_void_p * len(slots))(*[slot.data_ptr() for slot in slots])
        call = self._call
        call.group = ctypes.pointer(group)
        call.x = x.data_ptr()
        call.base = None if base is None else base.data_ptr()
        call.y = y.data_ptr()
        call.segments = step.address
        call.tables = ctypes.addressof(addresses)
        call.num_segments = step.num_segments
        call.num_tokens = step.num_tokens
        call.is_bf16 = x.dtype == torch.bfloat16
        call.num_threads = torch.get_num_threads()
        if self._library.linear(self._call_address):
            raise MemoryError(f"no memory for a step of {step.num_tokens} tokens")
        return y

    def plan_attention(
        self, rows: Sequence[AttentionRow], block_size: int, device: torch.device
    ) -> AttentionPlan:
        return native_attention.plan(rows, block_size, device)

    def store_kv(
        self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
    ) -> None:
        if native_attention.reads(k, v, k_cache, v_cache):
            native_attention.store_kv(self._library, k, v, k_cache, v_cache, slots)
        else:
            self._torch.store_kv(k, v, k_cache, v_cache, slots)

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
        assert isinstance(plan, NativeAttentionPlan)
        if not native_attention.reads(q, k_cache, v_cache):
            return self._torch.attention(
                q, k_cache, v_cache, plan.torch, scale=scale, window=window, softcap=softcap
            )
        return native_attention.attention(
            self._library,
            q,
            k_cache,
            v_cache,
            plan,
            scale=scale,
            window=window,
            softcap=softcap,
        )

    def _routing_of(self, routing: Routing) -> NativeRouting:
        """Every operation of a step comes with the same routing."""
        if self._routing is None or self._routing.routing is not routing:
            self._routing = NativeRouting.of(routing)
        return self._routing

    def _check(
        self, x: Tensor, group: NativeGroup, tables: Sequence[SlotTable], step: NativeRouting
    ) -> None:
        """Refuse what would make the kernels read elsewhere: they are handed bare addresses."""
        native_layer.check_fit("x", x, (step.num_tokens, group.in_features), group.dtype)
        if tuple(table.out_features for table in tables) != group.out_features:
            raise ValueError(f"a group with outputs {group.out_features} needs a table for each")
        for table in tables:
            if table.in_features != group.in_features:
                raise ValueError(f"a table for K = {table.in_features}, not {group.in_features}")
            _check_slots(table, step)


def _check_slots(table: SlotTable, step: NativeRouting) -> None:
    if step.last_slot >= table.num_slots:
        raise ValueError(f"slot {step.last_slot} is not in a table of {table.num_slots} slots")


def _join_biases(weights: Sequence[Nf4Weight], biases: Sequence[Tensor | None]) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    parts = [
        torch.zeros(weight.shape[0]) if bias is None else bias.float()
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.cat(parts)
