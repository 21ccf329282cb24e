"""Triton: shrink and expand over row tiles, each slot at its own rank, no atomics.

    z = in_gain * x                            scale_rows_kernel, for IA3 on inputs alone
    planes = A z, in parts of K                shrink_kernel
    u = activation(core planes + inner_bias)   inner_stage.py, for slots that have any of it
    y = gain * (W z + delta_gain * B u) + bias expand_tile.py, on a tile of W z

A rank of 0 does no product at all. Under TRITON_INTERPRET=1 the kernels are right in float32 and
float16; bf16 arithmetic is wrong there, in the interpreter, without an error.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.expand_tile import expand_run
from motet_kernels.gpu.output_tiles import locate
from motet_kernels.gpu.slot_tensors import (
    IN_GAIN,
    RANK,
    A,
    elements,
    entry_of,
    run_at,
    vector,
    whole_loads,
)


@triton.jit
def scale_rows_kernel(
    z,  # [T, K], contiguous
    x,  # [T, K]
    rows,  # int32 [T, 4]
    pointers,  # int64 [S, 1, 12]
    in_features,
    x_stride,
    ALIGNED: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """z[t] = in_gain * x[t], or x[t] where the slot has no in_gain. Grid (T, blocks of K)."""
    dtype: tl.constexpr = x.dtype.element_ty
    t = tl.program_id(0)
    slot, _, _ = run_at(rows, t)
    in_gain = tl.load(entry_of(pointers, slot, 0, 1) + IN_GAIN)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    row = t.to(tl.int64)
    value = tl.load(x + row * x_stride + k, mask=k < in_features, other=0.0)
    if in_gain != 0:
        scale = vector(in_gain, k, in_features, 1.0, dtype, ALIGNED)
        value = (value.to(tl.float32) * scale).to(dtype)
    tl.store(z + row * in_features + k, value, mask=k < in_features)


@triton.jit
def shrink_kernel(
    z,  # [T, K]
    planes,  # float32 [T, SPLIT + 1, J, RANKS]
    tiles,  # int32 [num_tiles, 4]
    pointers,  # int64 [S, J, 12]
    in_features,
    z_stride,
    SPLIT: tl.constexpr,
    NUM_MEMBERS: tl.constexpr,  # J
    RANKS: tl.constexpr,
    ALIGNED: tl.constexpr,
    PART: tl.constexpr,  # K that one split covers, a multiple of BLOCK_K
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """planes[t, split, j, :rank] = A_j z[t] over the split's part of K.

    Grid (tiles, J * blocks of RANKS, SPLIT). Nothing is written past a slot's own rank.
    """
    slot, first_row, stop_row = run_at(tiles, tl.program_id(0))
    member = tl.program_id(1) % NUM_MEMBERS
    first_rank = tl.program_id(1) // NUM_MEMBERS * BLOCK_R
    entry = entry_of(pointers, slot, member, NUM_MEMBERS)
    rank = tl.load(entry + RANK).to(tl.int32)
    if first_rank >= rank:
        return
    a = elements(tl.load(entry + A), z.dtype.element_ty, ALIGNED)  # [R, K]
    t = first_row.to(tl.int64) + tl.arange(0, BLOCK_T)
    r = first_rank + tl.arange(0, BLOCK_R)
    split = tl.program_id(2)
    stop = tl.minimum((split + 1) * PART, in_features)
    z_rows = z + t[:, None] * z_stride
    a_rows = a + r.to(tl.int64)[None, :] * in_features
    u = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for first in range(split * PART, stop, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        z_block = tl.load(
            z_rows + k[None, :], mask=(t < stop_row)[:, None] & (k < stop)[None, :], other=0.0
        )  # [BLOCK_T, BLOCK_K]
        a_block = tl.load(
            a_rows + k[:, None], mask=(r < rank)[None, :] & (k < stop)[:, None], other=0.0
        )  # [BLOCK_K, BLOCK_R]
        u = tl.dot(z_block, a_block, u, input_precision="ieee")
    plane = (t * (SPLIT + 1) + split) * NUM_MEMBERS + member
    tl.store(
        planes + plane[:, None] * RANKS + r[None, :],
        u,
        mask=(t < stop_row)[:, None] & (r < rank)[None, :],
    )


@triton.jit
def expand_kernel(
    out,  # [T, columns], may be y
    y,  # [T, columns], holds W z of all members side by side
    tiles,  # int32 [num_tiles, 4]
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
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """out[t] = gain * (y[t] + delta_gain * B u[t]) + bias + base bias.

    Grid (tiles, output tiles).
    """
    dtype: tl.constexpr = y.dtype.element_ty
    slot, first_row, stop_row = run_at(tiles, tl.program_id(0))
    member, first, out_features, column = locate(tl.program_id(1), sizes, NUM_MEMBERS, BLOCK_N)
    t = first_row.to(tl.int64) + tl.arange(0, BLOCK_T)
    n = first.to(tl.int64) + tl.arange(0, BLOCK_N)
    n_mask = n < whole_loads(out_features, dtype, ALIGNED)
    mask = (t < stop_row)[:, None] & n_mask[None, :]
    columns = whole_loads(column, dtype, ALIGNED).to(tl.int64) + tl.arange(0, BLOCK_N)
    acc = tl.load(y + t[:, None] * y_stride + columns[None, :], mask=mask, other=0.0)
    value = expand_run(
        acc.to(tl.float32),
        t < stop_row,
        n,
        entry_of(pointers, slot, member, NUM_MEMBERS),
        planes + (t * ((SPLIT + 1) * NUM_MEMBERS) + member)[:, None] * RANKS,
        whole_loads(out_features, dtype, ALIGNED),
        SPLIT,
        NUM_MEMBERS * RANKS,
        ALIGNED,
        dtype,
        BLOCK_R,
    )
    if HAS_BASE_BIAS:
        value += tl.load(base_bias + columns, mask=n_mask, other=0.0)[None, :]
    place = out + t[:, None] * out_stride + columns[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=mask)
