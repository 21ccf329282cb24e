"""Ops for the CPU that round the inputs of bf16 products to 8 bits: fast_math."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels.cpu.native_abi import DenseCall
from motet_kernels.cpu.native_group import aligned, can_pack, scale_len
from motet_kernels.cpu.native_library import FAST_LEVELS, RoundingLibrary
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.packed_dense import PackedDense


@dataclass(frozen=True)
class RoundedWeight(PackedDense):
    """codes: uint8, 8.5 bits a weight where K is a multiple of 64, see native/pack_rounded.cpp.

    bias: bf16 [N]; None: there is none.
    """

    codes: Tensor
    bias: Tensor | None


class RoundingCpuOps(NativeCpuOps):
    """NativeCpuOps at a level of FAST_LEVELS.

    Along K, a row's inputs go by the groups of 64 weights that share a scale (fewer where K is no
    multiple of 64); each becomes a whole multiple, up to 127, of 1/127 of the group's largest.
    NF4's table is rounded likewise, and with `pack_dense` so are unquantised weights. Sums of a
    group are then exact integers, and a row's bits still depend on that row alone. Float32 inputs,
    adapters, attention and everything else are as in NativeCpuOps.
    """

    def __init__(self, level: str = FAST_LEVELS[0]) -> None:
        """Raises BuildFailed and ValueError like NativeCpuOps."""
        super().__init__(level)
        self._rounding = RoundingLibrary(level)

    def pack_dense(self, weight: Tensor, bias: Tensor | None) -> RoundedWeight | None:
        n, k = weight.shape
        if weight.dtype != torch.bfloat16 or not can_pack(k):
            return None
        codes = aligned(self._rounding.packed_size(n, k, scale_len(k)))
        weight = weight.contiguous()
        self._rounding.pack(weight.data_ptr(), n, k, scale_len(k), codes.data_ptr())
        bias = None if bias is None else bias.to(torch.bfloat16).contiguous()
        return RoundedWeight(in_features=k, out_features=n, codes=codes, bias=bias)

    def packed_dense_linear(self, x: Tensor, packed: PackedDense) -> Tensor:
        assert isinstance(packed, RoundedWeight)
        num_tokens, k = x.shape
        if k != packed.in_features or x.dtype != torch.bfloat16:
            raise ValueError(
                f"x must be bfloat16 [T, {packed.in_features}], got {x.dtype} {list(x.shape)}"
            )
        x, y = x.contiguous(), x.new_empty(num_tokens, packed.out_features)
        bias = packed.bias
        call = DenseCall(
            *(x.data_ptr(), packed.codes.data_ptr(), None if bias is None else bias.data_ptr()),
            *(y.data_ptr(), num_tokens, k, packed.out_features),
            *(True, torch.get_num_threads()),
        )
        if self._rounding.dense(ctypes.addressof(call), scale_len(k)):
            raise MemoryError(f"no memory for a step of {num_tokens} tokens")
        return y
