"""Measured speeds as a Markdown table: tokens per second, then Motet's over each other system's."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.serving.results import Outcome, Results

OURS = "Motet"


def markdown(results: Results) -> str:
    rows = [row(outcomes) for outcomes in results.by_load()]
    return "\n".join([header(list(results.systems)), *rows])


def header(systems: Sequence[str]) -> str:
    """Two lines: names and alignment."""
    ratios = [f"{OURS} / {name}" for name in systems if name != OURS] if OURS in systems else []
    names = ["requests", "adapters", *systems, *ratios]
    return f"{_line(names)}\n{_line(['---:', ':---'] + ['---:'] * (len(names) - 2))}"


def row(outcomes: Sequence[Outcome]) -> str:
    """One load over all systems."""
    load = outcomes[0].load
    speeds = [_speed(outcome) for outcome in outcomes]
    ours = [outcome for outcome in outcomes if outcome.system == OURS]
    others = [outcome for outcome in outcomes if outcome.system != OURS]
    ratios = [_ratio(ours[0].median, other.median) for other in others] if ours else []
    return _line([str(load.num_requests), str(load), *speeds, *ratios])


def _speed(outcome: Outcome) -> str:
    return "refused" if outcome.median is None else f"{outcome.median:.0f}"


def _ratio(ours: float | None, other: float | None) -> str:
    return "" if ours is None or other is None else f"{ours / other:.1f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
