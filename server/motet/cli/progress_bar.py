"""A progress bar for long work that reports (what is being done, part done)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from motet.cli.terminal import remarks, say

_QUIET_S = 5.0

Report = Callable[[str, float], None]
"""Told what is being done now and how much of the whole is done, from 0 to 1."""


@contextmanager
def progress_bar(title: str) -> Iterator[Report]:
    """Yields the function the work calls. On a terminal a bar that vanishes when the work is
    done; elsewhere one line for each new thing that is being done."""
    console = remarks()
    if not console.is_terminal:
        yield _Lines().report
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def report(doing: str, done: float) -> None:
            bar.update(task, description=doing, completed=done)

        yield report


class _Lines:
    """Says each new kind of work once, and what it has come to every few seconds: a log has no
    use for percentages, nor for a line per layer."""

    def __init__(self) -> None:
        self._kind = ""
        self._said = 0.0

    def report(self, doing: str, _done: float) -> None:
        kind, now = doing.partition(" ")[0], time.monotonic()
        if kind != self._kind or now - self._said > _QUIET_S:
            self._kind, self._said = kind, now
            say(remarks(), f"{doing} ...")
