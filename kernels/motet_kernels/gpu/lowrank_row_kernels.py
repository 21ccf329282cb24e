"""Triton: shrink and expand for a row alone, without tensor cores and without a tile's empty rows.

Their sums run in another order than those of `lowrank_kernels.py`, so they serve where a row may
get other bits in small batches than in large ones (`fast_math`).
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.output_tiles import locate
from motet_kernels.gpu.slot_tensors import (
    BIAS,
    BT,
    DELTA_GAIN,
    GAIN,
    RANK,
    A,
    elements,
    entry_of,
    finished,
    has_inner,
    run_at,
    vector,
    whole_loads,
)


@triton.jit
def shrink_row_kernel(
    z,  # [T, K]
    planes,  # float32 [T, SPLIT + 1, J, RANKS]
    rows,  # int32 [T, 4]
    pointers,  # int64 [S, J, 12]
    in_features,
    z_stride,
    SPLIT: tl.constexpr,
    NUM_MEMBERS: tl.constexpr,  # J
    RANKS: tl.constexpr,
    ALIGNED: tl.constexpr,
    PART: tl.constexpr,  # K that one split covers, a multiple of BLOCK_K
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """planes[t, split, j, :rank] = A_j z[t] over the split's part of K.

    Grid (T, J * blocks of RANKS, SPLIT).
    """
    row = tl.program_id(0)
    slot, _, _ = run_at(rows, row)
    member = tl.program_id(1) % NUM_MEMBERS
    first_rank = tl.program_id(1) // NUM_MEMBERS * BLOCK_R
    entry = entry_of(pointers, slot, member, NUM_MEMBERS)
    rank = tl.load(entry + RANK).to(tl.int32)
    if first_rank >= rank:
        return
    a = elements(tl.load(entry + A), z.dtype.element_ty, ALIGNED)  # [R, K]
    r = first_rank + tl.arange(0, BLOCK_R)
    split = tl.program_id(2)
    stop = tl.minimum((split + 1) * PART, in_features)
    z_row = z + row.to(tl.int64) * z_stride
    a_rows = a + r.to(tl.int64)[:, None] * in_features
    products = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    for first in range(split * PART, stop, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        z_block = tl.load(z_row + k, mask=k < stop, other=0.0).to(tl.float32)
        a_mask = (r < rank)[:, None] & (k < stop)[None, :]
        a_block = tl.load(a_rows + k[None, :], mask=a_mask, other=0.0).to(tl.float32)
        products += a_block * z_block[None, :]
    plane = (row.to(tl.int64) * (SPLIT + 1) + split) * NUM_MEMBERS + member
    tl.store(planes + plane * RANKS + r, tl.sum(products, axis=1), mask=r < rank)


@triton.jit
def expand_row(
    acc,  # float32 [BLOCK_N], W z of the row
    row,  # int32
    n,  # int64 [BLOCK_N], outputs of the member, from 0
    member,  # int32, which linear of the group
    rows,  # int32 [T, 4]
    pointers,  # int64 [S, J, 12]
    planes,  # float32 [T, SPLIT + 1, J, RANKS]
    out_features,  # int32, N of the member
    SPLIT: tl.constexpr,
    NUM_MEMBERS: tl.constexpr,  # J
    RANKS: tl.constexpr,
    ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr,  # of the adapters
    BLOCK_R: tl.constexpr,
):
    """`expand_tile` for one row -> float32 [BLOCK_N]."""
    out_features = whole_loads(out_features, DTYPE, ALIGNED)
    slot, _, _ = run_at(rows, row)
    entry = entry_of(pointers, slot, member, NUM_MEMBERS)
    rank = tl.load(entry + RANK).to(tl.int32)
    if rank > 0:
        inner = has_inner(entry)
        u = planes + (row.to(tl.int64) * ((SPLIT + 1) * NUM_MEMBERS) + member) * RANKS
        bt = elements(tl.load(entry + BT), DTYPE, ALIGNED)  # [R, N]
        delta = tl.zeros(acc.shape, dtype=tl.float32)
        for first in range(0, rank, BLOCK_R):
            r = first + tl.arange(0, BLOCK_R)
            u_block = finished(u + r, r < rank, r, rank, inner, SPLIT, NUM_MEMBERS * RANKS)
            bt_block = tl.load(
                bt + r.to(tl.int64)[:, None] * out_features + n[None, :],
                mask=(r < rank)[:, None] & (n < out_features)[None, :],
                other=0.0,
            )  # [BLOCK_R, BLOCK_N]
            delta += tl.sum(u_block[:, None] * bt_block.to(tl.float32), axis=0)
        acc += vector(tl.load(entry + DELTA_GAIN), n, out_features, 1.0, DTYPE, ALIGNED) * delta
    acc *= vector(tl.load(entry + GAIN), n, out_features, 1.0, DTYPE, ALIGNED)
    return acc + vector(tl.load(entry + BIAS), n, out_features, 0.0, DTYPE, ALIGNED)


@triton.jit
def expand_row_kernel(
    out,  # [T, columns], may be y
    y,  # [T, columns], holds W z of all members side by side
    rows,  # int32 [T, 4]
    pointers,  # int64 [S, J, 12]
    planes,  # float32 [T, SPLIT + 1, J, RANKS]
    sizes,  # int32 [J], each member's N
    base_bias,  # float32 [columns]; read only where HAS_BASE_BIAS
    out_stride,
    y_stride,
    SPLIT: tl.constexpr,
    NUM_MEMBERS: tl.constexpr,  # J
    RANKS: tl.constexpr,
    ALIGNED: tl.constexpr,
    HAS_BASE_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """out[t] = gain * (y[t] + delta_gain * B u[t]) + bias + base bias. Grid (T, output tiles)."""
    dtype: tl.constexpr = y.dtype.element_ty
    row = tl.program_id(0)
    member, first, out_features, column = locate(tl.program_id(1), sizes, NUM_MEMBERS, BLOCK_N)
    n = first.to(tl.int64) + tl.arange(0, BLOCK_N)
    columns = whole_loads(column, dtype, ALIGNED).to(tl.int64) + tl.arange(0, BLOCK_N)
    n_mask = n < whole_loads(out_features, dtype, ALIGNED)
    y_row = y + row.to(tl.int64) * y_stride
    value = expand_row(
        tl.load(y_row + columns, mask=n_mask, other=0.0).to(tl.float32),
        row,
        n,
        member,
        rows,
        pointers,
        planes,
        out_features,
        SPLIT,
        NUM_MEMBERS,
        RANKS,
        ALIGNED,
        dtype,
        BLOCK_R,
    )
    if HAS_BASE_BIAS:
        value += tl.load(base_bias + columns, mask=n_mask, other=0.0)
    place = out + row.to(tl.int64) * out_stride + columns
    tl.store(place, value.to(out.dtype.element_ty), mask=n_mask)
