"""Triton: the NF4 linear of a few rows, without tensor cores and without a tile's empty rows.

Its sums run in another order than those of `nf4_tile_kernel.py`, so it serves where a row may get
other bits in small batches than in large ones (`fast_math`).
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.lowrank_row_kernels import expand_row
from motet_kernels.gpu.nf4_decode import decode, scale_border
from motet_kernels.gpu.nf4_layout import HALF
from motet_kernels.gpu.output_tiles import locate
from motet_kernels.nf4 import BLOCK_LEN

_BLOCK_LEN = tl.constexpr(BLOCK_LEN)
_HALF = tl.constexpr(HALF)

# Blocks of inputs that a trip of the inner loop takes at once: 128 bytes of an output's codes.
BLOCKS_PER_TRIP = 4
_BLOCKS_PER_TRIP = tl.constexpr(BLOCKS_PER_TRIP)


# One compilation for any number of rows.
@triton.jit(do_not_specialize=["num_tokens"])
def nf4_gemv_kernel(
    x,  # [T, K], contiguous, T <= ROWS
    y,  # [T, N], contiguous
    codes,  # uint8 [N, 32 * B], a `PackedNf4`'s, as are absmax and sizes
    absmax,  # float32 [B, N]; [B + 1, N] where K is no multiple of 64
    sizes,  # int32 [J]
    bias,  # float32 [N]
    rows,  # int32 [T, 4], a `Tiles`'; read only where ADAPTED, as are pointers and planes
    pointers,  # int64 [S, J, 12], a `MemberTables`'
    planes,  # float32 [T, SPLIT + 1, J, RANKS], a `shrink`'s
    num_tokens,
    out_features,  # N, all members together
    IN_FEATURES: tl.constexpr,  # K
    CROSSED: tl.constexpr,  # whether K is no multiple of 64
    SIZES_DIVISOR: tl.constexpr,  # a power of two that divides every N_j
    NUM_MEMBERS: tl.constexpr,  # J
    ADAPTED: tl.constexpr,
    SPLIT: tl.constexpr,
    RANKS: tl.constexpr,
    ALIGNED: tl.constexpr,
    PERMUTE: tl.constexpr,  # see `decode`
    ROWS: tl.constexpr,  # a power of two
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """y[t] = gain * (W x[t] + delta_gain * B u) + adapter bias + bias; each member has its own.

    Grid (output tiles). Every program computes all rows, so that codes are decoded once.
    """
    member, first, size, column = locate(tl.program_id(0), sizes, NUM_MEMBERS, BLOCK_N)
    size = tl.multiple_of(size, SIZES_DIVISOR)
    column = tl.multiple_of(column, SIZES_DIVISOR)
    n = first.to(tl.int64) + tl.arange(0, BLOCK_N)  # in the member
    columns = column.to(tl.int64) + tl.arange(0, BLOCK_N)  # in the group
    t = tl.arange(0, ROWS)
    acc = tl.zeros((ROWS, BLOCK_N, _BLOCKS_PER_TRIP), dtype=tl.float32)
    for trip in range(0, tl.cdiv(IN_FEATURES, _BLOCK_LEN), _BLOCKS_PER_TRIP):
        acc = add_blocks(
            acc,
            x,
            num_tokens,
            codes + columns * (tl.cdiv(IN_FEATURES, _BLOCK_LEN) * _HALF),
            absmax + columns,
            n,
            n < size,
            trip + tl.arange(0, _BLOCKS_PER_TRIP),
            out_features,
            IN_FEATURES,
            CROSSED,
            PERMUTE,
        )
    sums = tl.sum(acc, axis=2)  # [ROWS, BLOCK_N]
    for row in tl.static_range(ROWS):
        if row < num_tokens:
            value = tl.sum(tl.where((t == row)[:, None], sums, 0.0), axis=0)
            if ADAPTED:
                value = expand_row(
                    value,
                    tl.full((), row, tl.int32),
                    n,
                    member,
                    rows,
                    pointers,
                    planes,
                    size,
                    SPLIT,
                    NUM_MEMBERS,
                    RANKS,
                    ALIGNED,
                    x.dtype.element_ty,
                    BLOCK_R,
                )
            value += tl.load(bias + columns, mask=n < size, other=0.0)
            place = y + tl.cast(row, tl.int64) * out_features + columns
            tl.store(place, value.to(y.dtype.element_ty), mask=n < size)


@triton.jit
def add_blocks(
    acc,  # float32 [ROWS, BLOCK_N, C]
    x,  # [T, K]
    num_tokens,
    code_rows,  # pointers [BLOCK_N]
    scales,  # pointers [BLOCK_N], to the first block's
    n,  # int64 [BLOCK_N], outputs of the member
    n_mask,
    blocks,  # int32 [C]
    out_features,
    IN_FEATURES: tl.constexpr,
    CROSSED: tl.constexpr,
    PERMUTE: tl.constexpr,
):
    """acc + scale * (values x) of each of C blocks; what is past the last is nothing.

    Row by row: the products stay in the layout that codes are loaded in, 16 bytes a thread.
    """
    j = tl.arange(0, _HALF)
    there = n_mask[:, None] & (blocks < tl.cdiv(IN_FEATURES, _BLOCK_LEN))[None, :]
    at = (blocks * _HALF)[:, None] + j[None, :]
    packed = tl.load(code_rows[:, None, None] + at[None, :, :], mask=there[:, :, None], other=0)
    high, low = decode(packed, x.dtype.element_ty, PERMUTE)  # [BLOCK_N, C, 32]
    high, low = high.to(tl.float32), low.to(tl.float32)
    scale_at = scales[:, None] + blocks.to(tl.int64)[None, :] * out_features
    scale = tl.load(scale_at, mask=there, other=0.0)  # [BLOCK_N, C]
    if CROSSED:  # a block's later inputs have the next scale
        border = scale_border(n, IN_FEATURES)[:, None, None]
        late = tl.load(scale_at + out_features, mask=there, other=0.0)[:, :, None]
        high *= tl.where(j[None, None, :] < border, scale[:, :, None], late)
        low *= tl.where((j + _HALF)[None, None, :] < border, scale[:, :, None], late)
    k = ((blocks * _BLOCK_LEN)[:, None] + j[None, :])[None, :, :]  # [1, C, 32]
    t = tl.arange(0, acc.shape[0])
    for row in tl.static_range(acc.shape[0]):
        stop = tl.where(row < num_tokens, IN_FEATURES, 0)
        x_row = x + tl.cast(row, tl.int64) * IN_FEATURES
        x_first = tl.load(x_row + k, mask=k < stop, other=0.0).to(tl.float32)
        x_second = tl.load(x_row + k + _HALF, mask=k + _HALF < stop, other=0.0).to(tl.float32)
        sums = tl.sum(high * x_first + low * x_second, axis=2)  # [BLOCK_N, C]
        if not CROSSED:
            sums *= scale
        acc += tl.where((t == row)[:, None, None], sums[None, :, :], 0.0)
    return acc
