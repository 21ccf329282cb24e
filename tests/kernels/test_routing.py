"""Segments cover the tokens, or there is no routing; the plans that are made from them."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import AttentionRow, Routing, Segment
from motet_kernels.cpu.segments import SegmentPlan
from motet_kernels.gpu.gpu_ops import GpuOps
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


def test_segment_plan_pads_adapter_rows_with_their_own() -> None:
    plan = SegmentPlan.build(Routing.from_slots([1, 1, 0, 2, 2, 2, 2, 1]), 4)
    assert plan.slots == (1, 0, 2, 1)
    assert plan.sizes == (4, 1, 4, 4)
    assert plan.source is not None
    assert plan.place is not None
    assert plan.source.tolist() == [0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
    assert torch.equal(plan.source[plan.place], torch.arange(8))


def test_segment_plan_joins_neighbours_and_pads_nothing_needlessly() -> None:
    plan = SegmentPlan.build(Routing((Segment(1, 0, 3), Segment(1, 3, 4), Segment(0, 4, 5))), 4)
    assert plan.slots == (1, 0)
    assert plan.source is None
    assert plan.place is None
    assert not SegmentPlan.build(Routing.from_slots([0, 0, 0]), 4).has_adapters


def test_tiles_hold_every_token_once() -> None:
    tiles = Tiles.build(Routing((Segment(0, 0, 3), Segment(4, 3, 40))), CPU)
    places = [row[:3] for row in tiles.table.tolist()]
    assert places == [[0, 0, 3], [4, 3, 19], [4, 19, 35], [4, 35, 40]]
    assert tiles.has_adapters
    assert not Tiles.build(Routing.from_slots([0]), CPU).has_adapters


def test_a_step_s_tiles_stay_beside_those_of_its_experts() -> None:
    """Each expert has a routing of its own; the linears between them come with the step's."""
    ops, step = GpuOps(), Routing.from_slots([0, 2])
    rows = [AttentionRow(0, 2, 2, (1,))]
    ops.stage([step], rows, 16, CPU, lambda table: torch.from_numpy(table.copy()), None)
    staged = ops._tiles_of(step, CPU)
    for slot in (1, 2):
        expert = Routing.from_slots([slot])
        assert ops._tiles_of(expert, CPU).rows.tolist() == [[slot, 0, 1, 0]]
        assert ops._tiles_of(expert, CPU) is ops._tiles_of(expert, CPU)
        assert ops._tiles_of(step, CPU) is staged
