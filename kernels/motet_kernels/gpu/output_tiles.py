"""Which outputs of which linear of a group each program computes."""

# Triton reads a kernel's annotations as its own types, so mypy's have no place on locate.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl


def num_output_tiles(out_features: Sequence[int], block_n: int) -> int:
    """How many tiles of at most block_n outputs, none of them of two members, the group has."""
    return sum(triton.cdiv(n, block_n) for n in out_features)


@triton.jit
def locate(tile, sizes, NUM_MEMBERS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Output tile -> its member, its first output there, the member's size, its first output in
    the group. sizes: int32 [J], each member's N. No tile crosses members."""
    member, first_tile, first_output = 0, 0, 0
    size = tl.load(sizes)
    for j in tl.static_range(1, NUM_MEMBERS):
        past = tile >= first_tile + tl.cdiv(size, BLOCK_N)
        member = tl.where(past, j, member)
        first_tile = tl.where(past, first_tile + tl.cdiv(size, BLOCK_N), first_tile)
        first_output = tl.where(past, first_output + size, first_output)
        size = tl.where(past, tl.load(sizes + j), size)
    first = (tile - first_tile) * BLOCK_N
    return member, first, size, first_output + first
