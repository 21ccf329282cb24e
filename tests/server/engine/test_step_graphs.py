"""Which forward passes are captured and replayed, with a capture that only takes notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from motet.engine import step_graphs
from motet.engine.step_graphs import StepGraphs, StepKey, row_buckets
from motet_kernels import LaunchShape
from torch import Tensor


@dataclass
class Notes:
    """A capture that runs nothing; a graph answers with its number."""

    refuses: bool = False
    captured: list[Callable[[], Tensor]] = field(default_factory=list)

    def __call__(self, forward: Callable[[], Tensor]) -> Notes.Graph:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.captured.append(forward)
        return Notes.Graph(len(self.captured))

    @dataclass
    class Graph:
        number: int

        def replay(self) -> Tensor:
            return torch.tensor(self.number)


def key(num_tokens: int = 4, num_splits: int = 1) -> StepKey:
    return StepKey(num_tokens, LaunchShape(num_splits, 1))


def eager() -> Tensor:
    return torch.tensor(0)


def outputs(graphs: StepGraphs, *keys: StepKey, version: object = "v") -> list[int]:
    return [int(graphs.run(each, version, eager)) for each in keys]


def test_the_first_step_runs_the_second_is_captured_the_others_replay() -> None:
    graphs = StepGraphs(Notes())
    assert outputs(graphs, key(), key(), key()) == [0, 1, 1]
    assert (graphs.num_captures, graphs.num_replays) == (1, 2)


def test_each_kind_of_step_has_its_graph() -> None:
    graphs = StepGraphs(Notes())
    kinds = [key(4), key(8), key(4, 16)]
    assert outputs(graphs, *kinds, *kinds, *kinds) == [0, 0, 0, 1, 2, 3, 1, 2, 3]


def test_another_version_forgets_all_graphs() -> None:
    graphs = StepGraphs(Notes())
    outputs(graphs, key(), key(), version=(16,))
    assert outputs(graphs, key(), key(), version=(32,)) == [0, 2]


def test_a_step_that_cannot_be_captured_runs(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes(refuses=True)
    graphs = StepGraphs(notes)
    assert outputs(graphs, key(), key(), key(), key()) == [0, 0, 0, 0]
    assert len(caplog.records) == 1, "it is said once"
    assert "without a graph" in caplog.text
    notes.refuses = False
    assert outputs(graphs, key(), key(), version="other") == [0, 1], "and is tried again after it"


def test_the_graph_not_used_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "MOST_GRAPHS", 2)
    graphs = StepGraphs(Notes())
    one, two, three = key(1), key(2), key(3)
    outputs(graphs, one, two, three, one, two)  # one: graph 1, two: graph 2
    assert outputs(graphs, one, three, one, two) == [1, 3, 1, 4]


@pytest.mark.parametrize(
    ("most", "multiple"), [(1, 1), (7, 1), (40, 1), (256, 1), (40, 64), (200, 64)]
)
def test_buckets_hold_all_rows_and_little_more(most: int, multiple: int) -> None:
    buckets = row_buckets(most, multiple)
    assert buckets[-1] >= most
    assert all(size % multiple == 0 for size in buckets)
    assert list(buckets) == sorted(set(buckets))
    for smaller, larger in pairwise(buckets):
        assert larger <= 2 * smaller
        assert larger <= 1.5 * smaller or smaller < 8 * multiple
