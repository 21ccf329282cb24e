"""Triton: the adapter half on top of a tile of W z that is still in registers.

Called in the epilogue of a product with the base's weight and by `expand_kernel`, so that y is
written once. A tile may hold rows of any slots: what is costly about a tile is decoding W, which
all its rows share, so the adapters are gone through inside it, one run of equal slots after the
other. Rows of other slots are never touched by an adapter's numbers, not even as zero times NaN:
their accumulators are selected, not added to.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.slot_tensors import (
    BIAS,
    BT,
    DELTA_GAIN,
    GAIN,
    RANK,
    elements,
    entry_of,
    finished,
    has_inner,
    run_at,
    vector,
    whole_loads,
)


@triton.jit
def expand_tile(
    acc,  # float32 [BLOCK_T, BLOCK_N], W z of the tile's rows
    t,  # int64 [BLOCK_T], the tile's rows: first_row and on
    n,  # int64 [BLOCK_N], outputs of the member, from 0
    first_row,  # int32
    stop_row,  # int32, after the tile's last row that is in the batch
    member,  # int32, which linear of the group
    rows,  # int32 [T, 4], a `Tiles`'
    pointers,  # int64 [S, J, 12], a `MemberTables`'
    planes,  # float32 [T, SPLIT + 1, J, RANKS], a `shrink`'s
    out_features,  # int32, N of the member
    SPLIT: tl.constexpr,
    NUM_MEMBERS: tl.constexpr,  # J
    RANKS: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,  # of the adapters
    BLOCK_R: tl.constexpr,
):
    """gain * (acc + delta_gain * B u) + bias, row by row with its own slot's -> like acc.

    The base's own bias is the caller's to add, after it. Rows and outputs beyond the batch and
    the linear may come back as anything, and nothing is read for them.
    """
    out_features = whole_loads(out_features, DTYPE, ALIGNED)
    u = planes + (t * ((SPLIT + 1) * NUM_MEMBERS) + member)[:, None] * RANKS
    row = first_row
    while row < stop_row:
        slot, _, stop = run_at(rows, row)
        stop = tl.minimum(stop, stop_row)
        entry = entry_of(pointers, slot, member, NUM_MEMBERS)
        mine = (t >= row) & (t < stop)
        acc = expand_run(
            acc,
            mine,
            n,
            entry,
            u,
            out_features,
            SPLIT,
            NUM_MEMBERS * RANKS,
            ALIGNED,
            DTYPE,
            BLOCK_R,
        )
        row = stop
    return acc


@triton.jit
def expand_run(
    acc,  # float32 [BLOCK_T, BLOCK_N]
    mine,  # [BLOCK_T], rows of this slot
    n,  # int64 [BLOCK_N]
    entry,  # int64 [12], the slot's tensors
    u,  # pointers [BLOCK_T, 1] to each row's first plane
    out_features,
    SPLIT: tl.constexpr,
    PLANE: tl.constexpr,  # elements from one plane to the next
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """One slot's share of `expand_tile`: acc with the rows that are `mine` replaced."""
    rank = tl.load(entry + RANK).to(tl.int32)
    gain = tl.load(entry + GAIN)
    bias = tl.load(entry + BIAS)
    if (rank > 0) | (gain != 0) | (bias != 0):
        value = acc
        if rank > 0:
            inner = has_inner(entry)
            bt = elements(tl.load(entry + BT), DTYPE, ALIGNED)  # [R, N]
            delta = tl.zeros(acc.shape, dtype=tl.float32)
            for first in tl.range(0, rank, BLOCK_R, num_stages=1):
                r = first + tl.arange(0, BLOCK_R)
                u_block = finished(
                    u + r[None, :], mine[:, None], r[None, :], rank, inner, SPLIT, PLANE
                )  # [BLOCK_T, BLOCK_R]
                bt_block = tl.load(
                    bt + r.to(tl.int64)[:, None] * out_features + n[None, :],
                    mask=(r < rank)[:, None] & (n < out_features)[None, :],
                    other=0.0,
                )  # [BLOCK_R, BLOCK_N]
                delta = _dot(u_block, bt_block, delta)
            delta_gain = vector(tl.load(entry + DELTA_GAIN), n, out_features, 1.0, DTYPE, ALIGNED)
            value += delta_gain[None, :] * delta
        value *= vector(gain, n, out_features, 1.0, DTYPE, ALIGNED)[None, :]
        value += vector(bias, n, out_features, 0.0, DTYPE, ALIGNED)[None, :]
        acc = tl.where(mine[:, None], value, acc)
    return acc


@triton.jit
def _dot(u, b, delta):
    """delta + u b for float32 u [BLOCK_T, BLOCK_R] and b [BLOCK_R, BLOCK_N] of the adapters' dtype.

    For bf16, u is cut into two bf16 numbers whose sum has 16 bits of it, so that tensor cores do
    the product and u is not rounded to 8 bits. A float16 has too small a range for u.
    """
    if b.dtype == tl.bfloat16:
        high = u.to(tl.bfloat16)
        low = (u - high.to(tl.float32)).to(tl.bfloat16)
        delta = tl.dot(low, b, delta)
        delta = tl.dot(high, b, delta)
    else:
        delta = tl.dot(u, b.to(tl.float32), delta, input_precision="ieee")
    return delta
