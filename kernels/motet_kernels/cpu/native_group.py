"""A group of linears in the form the native kernels read."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels.cpu.cpu_ops import CpuGroup
from motet_kernels.cpu.native_abi import Block, Group
from motet_kernels.cpu.native_library import NativeLibrary
from motet_kernels.nf4 import BLOCK_LEN, Nf4Weight
from motet_kernels.ops import PackedGroup

_BLOCK_WIDTH = 32
_LEAST_SCALE_LEN = 4
_ALIGNMENT = 64


@dataclass(frozen=True)
class NativeGroup(PackedGroup):
    """weight: uint8, the packed NF4 form, 4.5 bits a weight; or, where K is not a multiple of 4,
    the dequantised [sum N, K] in `dtype`, for torch's product.
    bias: float32 [sum N]; None: no member has one.
    """

    dtype: torch.dtype
    weight: Tensor
    bias: Tensor | None
    dense: CpuGroup | None  # where `weight` is dequantised
    native: Group


def scale_len(in_features: int) -> int:
    """Along how many k a scale holds: all of a block of 64 unless blocks cross rows."""
    return math.gcd(in_features, BLOCK_LEN)


def can_pack(in_features: int) -> bool:
    """Whether the native product reads weights with this K: it takes four k at a time."""
    return scale_len(in_features) >= _LEAST_SCALE_LEN


def pack_weights(library: NativeLibrary, weights: Sequence[Nf4Weight]) -> Tensor:
    """The members' packed forms behind one another, uint8, on a cache line."""
    length = scale_len(weights[0].shape[1])
    sizes = [library.packed_size(*weight.shape, length) for weight in weights]
    packed = aligned(sum(sizes))
    for weight, part in zip(weights, packed.split_with_sizes(sizes), strict=True):
        codes, absmax = weight.codes.contiguous(), weight.absmax.contiguous()
        n, k = weight.shape
        library.pack(codes.data_ptr(), absmax.data_ptr(), n, k, length, part.data_ptr())
    return packed


def aligned(size: int) -> Tensor:
    """uint8 [size], on a cache line."""
    whole = torch.empty(size + _ALIGNMENT, dtype=torch.uint8)
    return whole[-whole.data_ptr() % _ALIGNMENT :][:size]


def native_group(
    in_features: int, outs: Sequence[int], packed: Tensor | None = None, bias: Tensor | None = None
) -> Group:
    """The C struct of members [N, K]; it points into the tensors, which must outlive it."""
    blocks = _blocks(outs)
    return Group(
        weight=None if packed is None else packed.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        blocks=ctypes.cast((Block * len(blocks))(*blocks), ctypes.POINTER(Block)),
        num_blocks=len(blocks),
        num_members=len(outs),
        in_features=in_features,
        out_features=sum(outs),
        scale_len=scale_len(in_features),
    )


def _blocks(sizes: Sequence[int]) -> list[Block]:
    """Each member's columns by 32; a member starts a block of its own."""
    blocks, first = [], 0
    for member, size in enumerate(sizes):
        for column in range(0, size, _BLOCK_WIDTH):
            width = min(_BLOCK_WIDTH, size - column)
            blocks.append(Block(member, width, column, size, first + column))
        first += size
    return blocks
