"""Measured speeds as a Markdown table: tokens per second, then each of Motet's over each peer's."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.results import Outcome, Results

OURS = ("Motet", "Motet --fast-math")


def markdown(results: Results) -> str:
    rows = [row(outcomes) for outcomes in results.by_load()]
    return "\n".join([header(list(results.systems)), *rows])


def header(systems: Sequence[str]) -> str:
    """Two lines: names and alignment."""
    peers = [name for name in systems if name not in OURS]
    ratios = [f"{ours} / {peer}" for ours in OURS if ours in systems for peer in peers]
    names = ["requests", "adapters", *systems, *ratios]
    return f"{_line(names)}\n{_line(['---:', ':---'] + ['---:'] * (len(names) - 2))}"


def row(outcomes: Sequence[Outcome]) -> str:
    """One load over all systems."""
    load = outcomes[0].load
    speeds = [_speed(outcome) for outcome in outcomes]
    by_name = {outcome.system: outcome.median for outcome in outcomes}
    peers = [name for name in by_name if name not in OURS]
    ratios = [
        _ratio(by_name[our], by_name[peer]) for our in OURS if our in by_name for peer in peers
    ]
    return _line([str(load.num_requests), str(load), *speeds, *ratios])


def _speed(outcome: Outcome) -> str:
    return "refused" if outcome.median is None else f"{outcome.median:.0f}"


def _ratio(ours: float | None, other: float | None) -> str:
    return "" if ours is None or other is None else f"{ours / other:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
