"""Triton: the NF4 linear on tensor cores, for any number of rows."""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.expand_tile import expand_tile
from motet_kernels.gpu.nf4_decode import decode, scale_border
from motet_kernels.gpu.nf4_layout import HALF
from motet_kernels.gpu.output_tiles import locate
from motet_kernels.nf4 import BLOCK_LEN

_BLOCK_LEN = tl.constexpr(BLOCK_LEN)
_HALF = tl.constexpr(HALF)

# Blocks of inputs that a trip of the inner loop takes, one after the other: an output's 64 bytes of
# codes are what DRAM hands out at a time. It changes no sum.
BLOCKS_PER_TRIP = 2
_BLOCKS_PER_TRIP = tl.constexpr(BLOCKS_PER_TRIP)


# One compilation for any number of rows.
@triton.jit(do_not_specialize=["num_tokens"])
def nf4_tile_kernel(
    x,  # [T, K], contiguous
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
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """y[t] = gain * (W x[t] + delta_gain * B u) + adapter bias + bias; each member has its own.

    W x[t] is the blocks' scale * (values x), added in the order of K. Grid (row tiles, output
    tiles): programs side by side share their weights.
    """
    first_row = tl.program_id(0) * BLOCK_T
    t = first_row.to(tl.int64) + tl.arange(0, BLOCK_T)
    member, first, size, column = locate(tl.program_id(1), sizes, NUM_MEMBERS, BLOCK_N)
    size = tl.multiple_of(size, SIZES_DIVISOR)
    column = tl.multiple_of(column, SIZES_DIVISOR)
    n = first.to(tl.int64) + tl.arange(0, BLOCK_N)  # in the member
    columns = column.to(tl.int64) + tl.arange(0, BLOCK_N)  # in the group
    acc = tl.zeros((BLOCK_N, BLOCK_T), dtype=tl.float32)
    for trip in range(0, tl.cdiv(IN_FEATURES, _BLOCK_LEN), _BLOCKS_PER_TRIP):
        for b in tl.static_range(_BLOCKS_PER_TRIP):
            acc = add_block(
                acc,
                x + t * IN_FEATURES,
                t < num_tokens,
                codes + columns * (tl.cdiv(IN_FEATURES, _BLOCK_LEN) * _HALF),
                absmax + columns,
                n,
                size,
                tl.cast(trip + b, tl.int32),
                out_features,
                IN_FEATURES,
                CROSSED,
                PERMUTE,
            )
    value = tl.trans(acc)  # [BLOCK_T, BLOCK_N]
    if ADAPTED:
        value = expand_tile(
            value,
            t,
            n,
            first_row,
            tl.minimum(first_row + BLOCK_T, num_tokens),
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
    value += tl.load(bias + columns, mask=n < size, other=0.0)[None, :]
    tl.store(
        y + t[:, None] * out_features + columns[None, :],
        value.to(y.dtype.element_ty),
        mask=(t < num_tokens)[:, None] & (n < size)[None, :],
    )


@triton.jit
def add_block(
    acc,  # float32 [BLOCK_N, BLOCK_T]
    x_rows,  # pointers [BLOCK_T]
    t_mask,
    code_rows,  # pointers [BLOCK_N]
    scales,  # pointers [BLOCK_N], to the first block's
    n,  # int64 [BLOCK_N], outputs of the member
    size,
    block,  # int32
    out_features,
    IN_FEATURES: tl.constexpr,
    CROSSED: tl.constexpr,
    PERMUTE: tl.constexpr,
):
    """acc + scale * (values x) over one block of 64 inputs; what is past the last is nothing."""
    j = tl.arange(0, _HALF)
    k = block * _BLOCK_LEN + j
    there = n < tl.where(block < tl.cdiv(IN_FEATURES, _BLOCK_LEN), size, 0)
    packed = tl.load(
        code_rows[:, None] + (block * _HALF + j)[None, :], mask=there[:, None], other=0
    )  # [BLOCK_N, 32]
    x_first = tl.load(
        x_rows[None, :] + k[:, None],
        mask=t_mask[None, :] & (k < IN_FEATURES)[:, None],
        other=0.0,
    )  # [32, BLOCK_T]
    x_second = tl.load(
        x_rows[None, :] + (k + _HALF)[:, None],
        mask=t_mask[None, :] & (k + _HALF < IN_FEATURES)[:, None],
        other=0.0,
    )
    high, low = decode(packed, x_first.dtype, PERMUTE)
    scale_at = scales + block.to(tl.int64) * out_features
    scale = tl.load(scale_at, mask=there, other=0.0)
    if CROSSED:  # the block's later inputs have the next scale
        border = scale_border(n, IN_FEATURES)[:, None]
        early, early_low = j[None, :] < border, (j + _HALF)[None, :] < border
        acc += scale[:, None] * _product(
            tl.where(early, high, 0.0), tl.where(early_low, low, 0.0), x_first, x_second
        )
        scale = tl.load(scale_at + out_features, mask=there, other=0.0)
        acc += scale[:, None] * _product(
            tl.where(early, 0.0, high), tl.where(early_low, 0.0, low), x_first, x_second
        )
    else:
        acc += scale[:, None] * _product(high, low, x_first, x_second)
    return acc


@triton.jit
def _product(high, low, x_first, x_second):
    """values x over a block: inputs 0 to 31 first, then 32 to 63. float32 [BLOCK_N, BLOCK_T]."""
    total = tl.dot(high, x_first, input_precision="ieee")
    return tl.dot(low, x_second, total, input_precision="ieee")
