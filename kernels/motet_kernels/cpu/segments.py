"""The adapter rows of a step, laid out in tiles of a fixed number of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from motet_kernels.routing import Routing, Segment


class TiledSegment(NamedTuple):
    """Tokens [start, stop) run on `slot`; they lie in tiles [first_tile, last_tile)."""

    slot: int
    start: int
    stop: int
    first_tile: int
    last_tile: int


@dataclass(frozen=True)
class SegmentPlan:
    """A routing's adapter rows, each segment filled up to whole tiles of `tile_rows` rows.

    A segment is filled up with its own last row, so it never sees another's data.

    source: int64 [num_tiles * tile_rows], the token each tiled row is a copy of; None: the rows of
        the batch are tiles as they are.
    """

    segments: tuple[TiledSegment, ...]
    tile_rows: int
    source: Tensor | None

    @classmethod
    def build(cls, routing: Routing, tile_rows: int) -> SegmentPlan:
        segments: list[TiledSegment] = []
        source: list[int] = []
        for slot, start, stop in _merged(routing.segments):
            if slot == 0:
                continue
            first_tile = len(source) // tile_rows
            source.extend([*range(start, stop), *[stop - 1] * (-(stop - start) % tile_rows)])
            last_tile = len(source) // tile_rows
            segments.append(TiledSegment(slot, start, stop, first_tile, last_tile))
        in_place = source == list(range(routing.num_tokens))
        return cls(tuple(segments), tile_rows, None if in_place else torch.tensor(source))

    def tiles(self, x: Tensor) -> Tensor:
        """Rows x [T, K] as [num_tiles, tile_rows, K]."""
        rows = x if self.source is None else x.index_select(0, self.source)
        return rows.view(-1, self.tile_rows, x.shape[1])


def _merged(segments: Iterable[Segment]) -> Iterable[Segment]:
    """Neighbours on one slot joined: fewer and larger products."""
    for slot, run in groupby(segments, key=lambda segment: segment.slot):
        parts = list(run)
        yield Segment(slot, parts[0].start, parts[-1].stop)
