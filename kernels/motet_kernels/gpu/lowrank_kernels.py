"""Triton: shrink and expand over row tiles, each slot at its own rank, no atomics.

A slot's tensors are found through a table of addresses (`SlotTable.pointers`), so adapters of any
rank lie anywhere in memory and nothing is padded to a largest rank. A rank of 0 means that the
slot leaves this linear alone.

Under TRITON_INTERPRET=1 the kernels are right in float32 and float16; bf16 arithmetic is wrong
there, in the interpreter, without an error.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.tiles import COLUMNS as TILE_COLUMNS
from motet_kernels.lowrank import POINTER_COLUMNS

_TILE_COLUMNS = tl.constexpr(TILE_COLUMNS)
_POINTER_COLUMNS = tl.constexpr(POINTER_COLUMNS)


@triton.jit
def shrink_kernel(
    x,  # [T, K]
    planes,  # float32 [SPLIT, T, R]
    tiles,  # int32 [num_tiles, 4]
    pointers,  # int64 [S, 5]
    num_tokens,
    in_features,
    max_rank,
    x_stride,
    part_len,  # K that one split covers, a multiple of BLOCK_K
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """planes[split, t, :rank] = A x[t] over the split's part of K. Grid (tiles, ranks, SPLIT)."""
    tile = tiles + tl.program_id(0).to(tl.int64) * _TILE_COLUMNS
    slot = tl.load(tile).to(tl.int64)
    entry = pointers + slot * _POINTER_COLUMNS
    rank = tl.load(entry + 4)
    first_rank = tl.program_id(1) * BLOCK_R
    if first_rank >= rank:
        return
    a = tl.load(entry).to(tl.pointer_type(x.dtype.element_ty))  # [R, K]
    t = tl.load(tile + 1).to(tl.int64) + tl.arange(0, BLOCK_T)
    t_mask = t < tl.load(tile + 2)
    r = (first_rank + tl.arange(0, BLOCK_R)).to(tl.int64)
    r_mask = r < rank
    split = tl.program_id(2).to(tl.int64)
    start = split * part_len
    stop = tl.minimum(start + part_len, in_features)
    u = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for first in range(start, stop, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        k_mask = k < stop
        x_block = tl.load(
            x + t[:, None] * x_stride + k[None, :],
            mask=t_mask[:, None] & k_mask[None, :],
            other=0.0,
        )  # [BLOCK_T, BLOCK_K]
        a_block = tl.load(
            a + r[None, :] * in_features + k[:, None],
            mask=r_mask[None, :] & k_mask[:, None],
            other=0.0,
        )  # [BLOCK_K, BLOCK_R]
        u = tl.dot(x_block, a_block, u, input_precision="ieee")
    tl.store(
        planes + (split * num_tokens + t[:, None]) * max_rank + r[None, :],
        u,
        mask=t_mask[:, None] & r_mask[None, :],
    )


@triton.jit
def expand_kernel(
    y,  # [T, N], holds W x, updated in place
    planes,  # float32 [SPLIT, T, R]
    tiles,  # int32 [num_tiles, 4]
    pointers,  # int64 [S, 5]
    base_bias,  # float32 [N]; read only where HAS_BASE_BIAS
    num_tokens,
    out_features,
    max_rank,
    y_stride,
    SPLIT: tl.constexpr,
    HAS_BASE_BIAS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """y[t] = gain * (y[t] + B sum_split planes[split, t]) + biases. Grid (tiles, outputs)."""
    tile = tiles + tl.program_id(0).to(tl.int64) * _TILE_COLUMNS
    slot = tl.load(tile).to(tl.int64)
    entry = pointers + slot * _POINTER_COLUMNS
    rank = tl.load(entry + 4)
    if rank == 0 and not HAS_BASE_BIAS:
        return
    dtype: tl.constexpr = y.dtype.element_ty
    bt = tl.load(entry + 1).to(tl.pointer_type(dtype))  # [R, N]
    gain_address = tl.load(entry + 2)
    bias_address = tl.load(entry + 3)
    t = tl.load(tile + 1).to(tl.int64) + tl.arange(0, BLOCK_T)
    t_mask = t < tl.load(tile + 2)
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = n < out_features
    y_block = y + t[:, None] * y_stride + n[None, :]
    y_mask = t_mask[:, None] & n_mask[None, :]
    delta = tl.zeros((BLOCK_T, BLOCK_N), dtype=tl.float32)
    for first in range(0, rank, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        r_mask = r < rank
        u_mask = t_mask[:, None] & r_mask[None, :]
        u = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
        for split in tl.static_range(SPLIT):
            plane = planes + (split * num_tokens + t[:, None]) * max_rank + r[None, :]
            u += tl.load(plane, mask=u_mask, other=0.0)
        bt_block = tl.load(
            bt + r[:, None] * out_features + n[None, :],
            mask=r_mask[:, None] & n_mask[None, :],
            other=0.0,
        )  # [BLOCK_R, BLOCK_N]
        delta = tl.dot(u, bt_block.to(tl.float32), delta, input_precision="ieee")
    value = tl.load(y_block, mask=y_mask, other=0.0).to(tl.float32) + delta
    # an absent gain or bias has no elements to load
    gain_len = tl.where(gain_address == 0, 0, out_features)
    bias_len = tl.where(bias_address == 0, 0, out_features)
    gain = gain_address.to(tl.pointer_type(dtype)) + n
    bias = bias_address.to(tl.pointer_type(dtype)) + n
    value *= tl.load(gain, mask=n < gain_len, other=1.0).to(tl.float32)[None, :]
    value += tl.load(bias, mask=n < bias_len, other=0.0).to(tl.float32)[None, :]
    if HAS_BASE_BIAS:
        value += tl.load(base_bias + n, mask=n_mask, other=0.0)[None, :]
    tl.store(y_block, value.to(dtype), mask=y_mask)
