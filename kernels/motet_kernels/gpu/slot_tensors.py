"""Triton: reading a slot's tensors through the table of addresses.

A row of `SlotTable.pointers` says where each tensor of a slot lies and how large it is, so adapters
of any rank lie anywhere in memory and nothing is padded to a largest rank. An address is followed
once for a whole block of elements, never for each.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.tiles import COLUMNS
from motet_kernels.lowrank import POINTER_COLUMNS

# The columns of a pointer row, as lowrank.py lists them.
A = tl.constexpr(0)
BT = tl.constexpr(1)
GAIN = tl.constexpr(2)
BIAS = tl.constexpr(3)
RANK = tl.constexpr(4)
IN_GAIN = tl.constexpr(5)
CORE_VALUES = tl.constexpr(6)
CORE_COLUMNS = tl.constexpr(7)
CORE_WIDTH = tl.constexpr(8)
INNER_BIAS = tl.constexpr(9)
ACTIVATION = tl.constexpr(10)
DELTA_GAIN = tl.constexpr(11)

_POINTER_COLUMNS = tl.constexpr(POINTER_COLUMNS)
_COLUMNS = tl.constexpr(COLUMNS)


@triton.jit
def run_at(table, row):
    """(slot, first row, row after the last) of an entry of a `Tiles`' table or rows."""
    entry = table + row.to(tl.int64) * _COLUMNS
    return tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)


@triton.jit
def entry_of(pointers, slot, member, NUM_MEMBERS: tl.constexpr):
    """The pointer row of a member's slot, in a table int64 [S, J, 12]."""
    return pointers + (slot.to(tl.int64) * NUM_MEMBERS + member) * _POINTER_COLUMNS


@triton.jit
def has_inner(entry):
    """Whether anything stands between A and B: a core, an inner bias, an activation."""
    parts = tl.load(entry + CORE_VALUES) | tl.load(entry + INNER_BIAS) | tl.load(entry + ACTIVATION)
    return parts != 0


@triton.jit
def elements(address, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The address as a pointer to elements; ALIGNED: it is known to be a multiple of 16 bytes."""
    pointer = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def whole_loads(count, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """count, made a visible multiple of the elements in 16 bytes where ALIGNED says that it is."""
    if ALIGNED:
        per_load: tl.constexpr = 128 // DTYPE.primitive_bitwidth
        count = count // per_load * per_load
    return count


@triton.jit
def vector(address, at, size, absent, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """float32: elements `at` of the vector of `size` there, `absent` where there is no vector."""
    length = tl.where(address == 0, 0, size)
    values = tl.load(elements(address, DTYPE, ALIGNED) + at, mask=at < length, other=absent)
    return values.to(tl.float32)


@triton.jit
def sum_planes(u, mask, SPLIT: tl.constexpr, PLANE: tl.constexpr):
    """u's values over the first SPLIT planes, added in the planes' order; 0 where masked."""
    total = tl.load(u, mask=mask, other=0.0)
    for plane in tl.static_range(1, SPLIT):
        total += tl.load(u + plane * PLANE, mask=mask, other=0.0)
    return total


@triton.jit
def finished(u, mask, r, rank, inner, SPLIT: tl.constexpr, PLANE: tl.constexpr):
    """u's values at ranks r of `rank`: the sum of its planes, or what an inner stage left in the
    last. 0 where masked.

    Every load is there in both cases, masked, so that none has to wait for another.
    """
    total = sum_planes(u, mask & (r < tl.where(inner == 0, rank, 0)), SPLIT, PLANE)
    last_mask = mask & (r < tl.where(inner == 0, 0, rank))
    return total + tl.load(u + SPLIT * PLANE, mask=last_mask, other=0.0)
