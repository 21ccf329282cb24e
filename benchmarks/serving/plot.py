"""Tokens per second against the number of distinct adapters, one line for each system."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.serving.results import Results


def draw(results: Results, file: Path) -> None:
    """Writes a PNG of the loads with the most requests; the mixed load's point stands alone."""
    requests = max(outcome.load.num_requests for outcome in results.outcomes)
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    places = sorted({one.load.num_adapters for one in results.outcomes})
    for system in results.systems:
        mine = [
            (outcome.load, outcome.median)
            for outcome in results.outcomes
            if outcome.system == system and outcome.load.num_requests == requests
        ]
        points = [(places.index(load.num_adapters), load.num_dora, v) for load, v in mine if v]
        lora = [(x, speed) for x, num_dora, speed in points if not num_dora]
        dora = [(x, speed) for x, num_dora, speed in points if num_dora]
        (line,) = axes.plot(*zip(*lora, strict=True), marker="o", label=system)
        if dora:
            label = f"{system}, half of them DoRA"
            colour = line.get_color()
            axes.plot(*zip(*dora, strict=True), "D", mfc="none", color=colour, label=label)
    axes.set_yscale("log")
    for axis_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set_xlabel("distinct adapters among the requests")
    axes.set_ylabel("tokens per second, log scale")
    axes.set_title(f"{requests} requests at once, {results.base}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130, metadata={"Software": None})
