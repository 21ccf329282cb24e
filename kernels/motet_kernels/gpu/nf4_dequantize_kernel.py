"""Triton: NF4 weights written out in the compute dtype, for a product with many rows."""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.nf4_decode import decode, scale_border
from motet_kernels.gpu.nf4_layout import HALF
from motet_kernels.gpu.output_tiles import locate
from motet_kernels.nf4 import BLOCK_LEN

_BLOCK_LEN = tl.constexpr(BLOCK_LEN)
_HALF = tl.constexpr(HALF)


@triton.jit
def nf4_dequantize_kernel(
    weight,  # [N, K], contiguous
    codes,  # uint8 [N, 32 * B], a `PackedNf4`'s, as are absmax and sizes
    absmax,  # float32 [B, N]; [B + 1, N] where K is no multiple of 64
    sizes,  # int32 [J]
    out_features,  # N
    IN_FEATURES: tl.constexpr,  # K
    CROSSED: tl.constexpr,  # whether K is no multiple of 64
    NUM_MEMBERS: tl.constexpr,  # J
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """weight[n, k] = value * absmax, multiplied in float32 and rounded once, as bitsandbytes does.

    Grid (output tiles, tiles of BLOCK_B blocks).
    """
    _, first, size, column = locate(tl.program_id(0), sizes, NUM_MEMBERS, BLOCK_N)
    n = first.to(tl.int64) + tl.arange(0, BLOCK_N)  # in the member
    columns = column.to(tl.int64) + tl.arange(0, BLOCK_N)  # in the group
    b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    j = tl.arange(0, _HALF)
    num_blocks: tl.constexpr = tl.cdiv(IN_FEATURES, _BLOCK_LEN)
    there = (n < size)[:, None] & (b < num_blocks)[None, :]
    at = (b * _HALF)[:, None] + j[None, :]  # [BLOCK_B, 32]
    code_rows = codes + columns * (num_blocks * _HALF)
    packed = tl.load(
        code_rows[:, None, None] + at[None, :, :], mask=there[:, :, None], other=0
    )  # [BLOCK_N, BLOCK_B, 32]
    high, low = decode(packed, tl.float32, False)  # [BLOCK_N, BLOCK_B, 32]
    scale_at = absmax + b.to(tl.int64)[None, :] * out_features + columns[:, None]
    scale_first = tl.load(scale_at, mask=there, other=0.0)[:, :, None]
    scale_second = scale_first
    if CROSSED:  # a block's later inputs have the next scale
        border = scale_border(n, IN_FEATURES)[:, None, None]
        late = tl.load(scale_at + out_features, mask=there, other=0.0)[:, :, None]
        scale_second = tl.where((j + _HALF)[None, None, :] < border, scale_first, late)
        scale_first = tl.where(j[None, None, :] < border, scale_first, late)
    k = ((b * _BLOCK_LEN)[:, None] + j[None, :])[None, :, :]  # [1, BLOCK_B, 32]
    place = (weight + columns * IN_FEATURES)[:, None, None] + k
    dtype: tl.constexpr = weight.dtype.element_ty
    n_mask = (n < size)[:, None, None]
    tl.store(place, (high * scale_first).to(dtype), mask=n_mask & (k < IN_FEATURES))
    second_mask = n_mask & (k + _HALF < IN_FEATURES)
    tl.store(place + _HALF, (low * scale_second).to(dtype), mask=second_mask)
