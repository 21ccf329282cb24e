"""The adapter rows of a step, laid out so that each slot's rows can be multiplied as a slice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from motet_kernels.routing import Routing, Segment


@dataclass(frozen=True)
class SegmentPlan:
    """A routing with every adapter segment padded to a multiple of rows.

    Padding repeats a segment's own last row, so a segment never sees another's data.

    slots: slot of each padded segment, in order; sizes: their rows, summing to padded T.
    source: int64 [padded T], the token each padded row is a copy of; None: nothing is padded.
    place: int64 [T], the padded row of each token; None: nothing is padded.
    """

    slots: tuple[int, ...]
    sizes: tuple[int, ...]
    source: Tensor | None
    place: Tensor | None

    @property
    def has_adapters(self) -> bool:
        return any(self.slots)

    @classmethod
    def build(cls, routing: Routing, multiple: int) -> SegmentPlan:
        slots: list[int] = []
        sizes: list[int] = []
        source: list[int] = []
        place: list[int] = []
        for slot, start, stop in _merged(routing.segments):
            num_rows = stop - start
            missing = -num_rows % multiple if slot else 0
            place.extend(range(len(source), len(source) + num_rows))
            source.extend([*range(start, stop), *[stop - 1] * missing])
            slots.append(slot)
            sizes.append(num_rows + missing)
        if len(source) == routing.num_tokens:
            return cls(tuple(slots), tuple(sizes), None, None)
        return cls(tuple(slots), tuple(sizes), torch.tensor(source), torch.tensor(place))


def _merged(segments: Iterable[Segment]) -> Iterable[Segment]:
    """Neighbours on one slot joined: fewer and larger products."""
    for slot, run in groupby(segments, key=lambda segment: segment.slot):
        parts = list(run)
        yield Segment(slot, parts[0].start, parts[-1].stop)
