"""Which slot each token of a step runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple


class Segment(NamedTuple):
    """Tokens [start, stop) of the packed batch run on `slot`."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True)
class Routing:
    """The segments of a step: they cover [0, num_tokens) in order, without gaps.

    A slot may appear in several segments, and neighbours may share a slot.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        position = 0
        for segment in self.segments:
            if segment.start != position or segment.stop <= segment.start or segment.slot < 0:
                raise ValueError(
                    f"segments must cover the tokens in order and without gaps; "
                    f"expected one that starts at {position}, got {segment}"
                )
            position = segment.stop

    @classmethod
    def from_slots(cls, slots: Sequence[int]) -> Routing:
        """The routing of tokens whose slots are `slots`, one entry a token."""
        segments, start = [], 0
        for slot, run in groupby(slots):
            stop = start + len(list(run))
            segments.append(Segment(slot, start, stop))
            start = stop
        return cls(tuple(segments))

    @property
    def num_tokens(self) -> int:
        return self.segments[-1].stop if self.segments else 0
