"""Segments cover the tokens, or there is no routing; the plans that are made from them."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import Routing, Segment
from motet_kernels.cpu.segments import SegmentPlan
from motet_kernels.gpu.tiles import Tiles

from tests.support.kernel_cases import CPU


def test_from_slots() -> None:
    routing = Routing.from_slots([2, 2, 0, 1, 2])
    assert routing.segments == (
        Segment(2, 0, 2),
        Segment(0, 2, 3),
        Segment(1, 3, 4),
        Segment(2, 4, 5),
    )
    assert routing.num_tokens == 5
    assert Routing(()).num_tokens == 0


@pytest.mark.parametrize(
    "segments",
    [
        (Segment(0, 1, 2),),
        (Segment(0, 0, 2), Segment(1, 3, 4)),
        (Segment(0, 0, 2), Segment(1, 1, 4)),
        (Segment(0, 0, 0),),
        (Segment(-1, 0, 2),),
    ],
)
def test_gaps_overlaps_and_sentinels_are_refused(segments: tuple[Segment, ...]) -> None:
    with pytest.raises(ValueError, match="without gaps"):
        Routing(segments)


def test_segment_plan_fills_tiles_with_a_segments_own_rows() -> None:
    plan = SegmentPlan.build(Routing.from_slots([1, 1, 0, 2, 2, 2, 2, 2, 1]), 4)
    assert [tuple(segment) for segment in plan.segments] == [
        (1, 0, 2, 0, 1),
        (2, 3, 8, 1, 3),
        (1, 8, 9, 3, 4),
    ]
    x = torch.arange(9.0)[:, None]
    assert plan.tiles(x)[..., 0].tolist() == [
        [0, 1, 1, 1],
        [3, 4, 5, 6],
        [7, 7, 7, 7],
        [8, 8, 8, 8],
    ]


def test_segment_plan_joins_neighbours_and_copies_nothing_needlessly() -> None:
    plan = SegmentPlan.build(Routing((Segment(1, 0, 3), Segment(1, 3, 4), Segment(2, 4, 8))), 4)
    assert [segment.slot for segment in plan.segments] == [1, 2]
    assert plan.source is None
    assert SegmentPlan.build(Routing.from_slots([0, 0, 0]), 4).segments == ()


def test_tiles_hold_every_token_once() -> None:
    tiles = Tiles.build(Routing((Segment(0, 0, 3), Segment(4, 3, 40))), CPU)
    assert tiles.table.tolist() == [[0, 0, 3], [4, 3, 19], [4, 19, 35], [4, 35, 40]]
    assert tiles.has_adapters
    assert not Tiles.build(Routing.from_slots([0]), CPU).has_adapters
