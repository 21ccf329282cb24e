"""Triton: what stands between A and B, for slots that have a core, an inner bias, an activation."""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.slot_tensors import (
    ACTIVATION,
    CORE_COLUMNS,
    CORE_VALUES,
    CORE_WIDTH,
    INNER_BIAS,
    RANK,
    elements,
    entry_of,
    has_inner,
    run_at,
    sum_planes,
    vector,
)
from motet_kernels.lowrank import ACTIVATIONS

_RELU = tl.constexpr(ACTIVATIONS.index("relu"))
_GELU = tl.constexpr(ACTIVATIONS.index("gelu"))
_GELU_NEW = tl.constexpr(ACTIVATIONS.index("gelu_new"))
_SILU = tl.constexpr(ACTIVATIONS.index("silu"))
_TANH = tl.constexpr(ACTIVATIONS.index("tanh"))
_SIGMOID = tl.constexpr(ACTIVATIONS.index("sigmoid"))


@triton.jit
def inner_kernel(
    planes,  # float32 [T, SPLIT + 1, J, RANKS]
    tiles,  # int32 [num_tiles, 4]
    pointers,  # int64 [S, J, 12]
    SPLIT: tl.constexpr,
    NUM_MEMBERS: tl.constexpr,  # J
    RANKS: tl.constexpr,
    DTYPE: tl.constexpr,  # of the adapters
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,  # entries of a core's row at a time
):
    """planes[t, SPLIT] = activation(core (sum of planes[t, :SPLIT]) + inner_bias).

    Grid (tiles, J * blocks of RANKS). A slot with none of the three is left alone: `expand_tile`
    adds its planes up itself.
    """
    slot, first_row, stop_row = run_at(tiles, tl.program_id(0))
    member = tl.program_id(1) % NUM_MEMBERS
    entry = entry_of(pointers, slot, member, NUM_MEMBERS)
    rank = tl.load(entry + RANK).to(tl.int32)
    first_rank = tl.program_id(1) // NUM_MEMBERS * BLOCK_R
    if first_rank >= rank or not has_inner(entry):
        return
    t = first_row.to(tl.int64) + tl.arange(0, BLOCK_T)
    t_mask = t < stop_row
    r = first_rank + tl.arange(0, BLOCK_R)
    mask = t_mask[:, None] & (r < rank)[None, :]
    planes_t = planes + (t * ((SPLIT + 1) * NUM_MEMBERS) + member) * RANKS
    if tl.load(entry + CORE_VALUES) != 0:
        u = _core_product(
            planes_t, t_mask, r, rank, entry, SPLIT, NUM_MEMBERS * RANKS, DTYPE, BLOCK_C
        )
    else:
        u = sum_planes(planes_t[:, None] + r[None, :], mask, SPLIT, NUM_MEMBERS * RANKS)
    u += vector(tl.load(entry + INNER_BIAS), r, rank, 0.0, DTYPE, False)[None, :]
    u = _activated(u, tl.load(entry + ACTIVATION))
    tl.store(planes_t[:, None] + SPLIT * NUM_MEMBERS * RANKS + r[None, :], u, mask=mask)


@triton.jit
def _core_product(
    planes_t,  # pointers [BLOCK_T] to each row's first plane
    t_mask,
    r,  # [BLOCK_R], rows of the core
    rank,
    entry,
    SPLIT: tl.constexpr,
    PLANE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """sum_c values[r, c] * u[t, columns[r, c]] -> float32 [BLOCK_T, BLOCK_R]."""
    width = tl.load(entry + CORE_WIDTH).to(tl.int32)
    values = elements(tl.load(entry + CORE_VALUES), DTYPE, False)  # [R, width]
    columns = elements(tl.load(entry + CORE_COLUMNS), tl.int32, False)  # [R, width]
    total = tl.zeros((planes_t.shape[0], r.shape[0]), dtype=tl.float32)
    for first in tl.range(0, width, BLOCK_C, num_stages=1):
        for c in tl.static_range(BLOCK_C):  # loads that need not wait for each other
            at = r * width + first + c
            mask = r < tl.where(first + c < width, rank, 0)
            value = tl.load(values + at, mask=mask, other=0.0).to(tl.float32)
            column = tl.load(columns + at, mask=mask, other=0)
            u = planes_t[:, None] + column[None, :]
            u_mask = t_mask[:, None] & mask[None, :]
            total += sum_planes(u, u_mask, SPLIT, PLANE) * value[None, :]
    return total


@triton.jit
def _activated(u, activation):
    """lowrank.activated, its number known only when the kernel runs."""
    if activation == _RELU:
        u = tl.where(u < 0, 0.0, u)  # and not a maximum, which may lose a NaN
    elif activation == _GELU:
        u = 0.5 * u * (1 + tl.erf(u * 0.7071067811865476))
    elif activation == _GELU_NEW:
        u = 0.5 * u * (1 + _tanh(0.7978845608028654 * (u + 0.044715 * u * u * u)))
    elif activation == _SILU:
        u = u * tl.sigmoid(u)
    elif activation == _TANH:
        u = _tanh(u)
    elif activation == _SIGMOID:
        u = tl.sigmoid(u)
    return u


@triton.jit
def _tanh(u):
    """tanh in float32; near 0, where 1 - e^-2u would cancel, by its Taylor series."""
    size = tl.abs(u)
    small = tl.minimum(size, 0.25)
    square = small * small
    series = square * (2 / 15 + square * (-17 / 315 + square * 62 / 2835))
    near = small * (1 + square * (-1 / 3 + series))
    e = tl.exp(-2 * size)
    value = tl.where(size < 0.25, near, (1 - e) / (1 + e))
    return tl.where(u < 0, -value, value)
