"""Which bytes of a fixed range are free: first fit, neighbours joined on return."""

from bisect import bisect_left
from typing import NamedTuple


class Region(NamedTuple):
    """Bytes [offset, offset + num_bytes) of the arena's tensor."""

    offset: int
    num_bytes: int

    @property
    def end(self) -> int:
        return self.offset + self.num_bytes


class FreeList:
    """Holes of [0, num_bytes), sorted, never adjacent to one another. Not thread-safe."""

    def __init__(self, num_bytes: int) -> None:
        self._holes: list[Region] = [Region(0, num_bytes)] if num_bytes else []

    @property
    def num_bytes(self) -> int:
        """Bytes free in all, though no single hole need have them."""
        return sum(hole.num_bytes for hole in self._holes)

    def holes(self) -> tuple[Region, ...]:
        return tuple(self._holes)

    def copy(self) -> "FreeList":
        other = FreeList(0)
        other._holes = list(self._holes)
        return other

    def fits(self, num_bytes: int) -> bool:
        return any(hole.num_bytes >= num_bytes for hole in self._holes)

    def take(self, num_bytes: int) -> Region | None:
        """The start of the first hole that is large enough; None when there is none."""
        if num_bytes < 1:
            raise ValueError("a region has at least one byte")
        for index, hole in enumerate(self._holes):
            if hole.num_bytes == num_bytes:
                return self._holes.pop(index)
            if hole.num_bytes > num_bytes:
                self._holes[index] = Region(hole.offset + num_bytes, hole.num_bytes - num_bytes)
                return Region(hole.offset, num_bytes)
        return None

    def give(self, region: Region) -> Region:
        """Return a region taken before, and get the hole it has become part of.

        Raises ValueError when any of it is free already.
        """
        index = bisect_left(self._holes, region)
        before = self._holes[index - 1] if index else None
        after = self._holes[index] if index < len(self._holes) else None
        if (before and before.end > region.offset) or (after and after.offset < region.end):
            raise ValueError("region returned twice")
        start, end = region.offset, region.end
        first, last = index, index
        if before and before.end == start:
            start, first = before.offset, index - 1
        if after and after.offset == end:
            end, last = after.end, index + 1
        hole = Region(start, end - start)
        self._holes[first:last] = [hole]
        return hole
