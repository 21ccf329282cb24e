"""The compilations' figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from benchmarks.aot.gates import Compiled

COLUMNS = ("kernel", "registers", "spills", "shared, KiB", "global loads", "weight loads",
           "matrix instructions in the loop", "instructions/weight")  # fmt: skip


def markdown(found: Sequence[Compiled]) -> str:
    """A table for each architecture, in the order they come."""
    parts = []
    for architecture, group in groupby(found, lambda each: each.architecture):
        lines = [f"#### {architecture.name}", "", _row(COLUMNS), _row("---" for _ in COLUMNS)]
        parts.append("\n".join([*lines, *(_row(_cells(each)) for each in group)]))
    return "\n\n".join(parts)


def _cells(compiled: Compiled) -> Iterable[str]:
    spec, _, figures = compiled
    per_weight = compiled.instructions_per_weight
    in_loop = {op: n for op, n in figures.inner.opcodes.items() if op in figures.tensor}
    yield f"`{spec.name}`"
    yield str(figures.registers)
    yield str(figures.spills)
    yield f"{figures.shared_bytes / 1024:.1f}"
    yield _widths(figures.loads)
    yield _widths(figures.weight_loads) if spec.weight else ""
    yield ", ".join(f"{n} {opcode}" for opcode, n in sorted(in_loop.items()))
    yield "" if per_weight is None else f"{per_weight:.1f}"


def _widths(loads: Mapping[int, int]) -> str:
    """ "4 x 16 B, 2 x 4 B": instructions by the bytes that each brings a thread."""
    return ", ".join(f"{count} x {width} B" for width, count in sorted(loads.items(), reverse=True))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
