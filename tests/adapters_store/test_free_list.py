"""The allocator: whatever is taken and given back, bytes are neither lost nor handed out twice."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from motet_adapters.free_list import FreeList, Region


def test_first_fit_and_joining() -> None:
    free = FreeList(100)
    a, b, c = (free.take(size) for size in (30, 30, 40))
    assert (a, b, c) == (Region(0, 30), Region(30, 30), Region(60, 40))
    assert free.take(1) is None
    assert a is not None
    assert b is not None
    assert c is not None
    free.give(a)
    free.give(c)
    assert not free.fits(41)
    assert free.take(20) == Region(0, 20)
    free.give(Region(0, 20))
    free.give(b)
    assert free.holes() == (Region(0, 100),)


def test_what_is_free_is_not_taken_back() -> None:
    free = FreeList(100)
    region = free.take(50)
    assert region is not None
    free.give(region)
    for again in (region, Region(40, 20), Region(0, 1), Region(90, 20)):
        with pytest.raises(ValueError, match="twice"):
            free.give(again)
    with pytest.raises(ValueError, match="at least one"):
        free.take(0)


def test_a_copy_is_independent() -> None:
    free = FreeList(10)
    copy = free.copy()
    free.take(10)
    assert copy.fits(10)
    assert not free.fits(1)


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(1, 200),
    moves=st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=60),
)
def test_any_order_of_taking_and_giving(size: int, moves: list[tuple[bool, int]]) -> None:
    free = FreeList(size)
    taken: list[Region] = []
    for is_take, number in moves:
        if is_take:
            fits = free.fits(number)
            region = free.take(number)
            assert (region is not None) == fits
            if region is not None:
                taken.append(region)
        elif taken:
            free.give(taken.pop(number % len(taken)))
        require_partition(size, free, taken)
    for region in taken:
        free.give(region)
    assert free.holes() == (Region(0, size),)


def require_partition(size: int, free: FreeList, taken: list[Region]) -> None:
    holes = free.holes()
    end = 0
    for region in sorted([*holes, *taken]):
        assert region.offset == end
        assert region.num_bytes > 0
        end = region.end
    assert end == size
    assert free.num_bytes == sum(hole.num_bytes for hole in holes)
    # Neighbouring holes are always one hole, or a large adapter would not fit where it could.
    for left, right in pairwise(holes):
        assert left.end < right.offset
