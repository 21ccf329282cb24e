"""A progress bar for long work that reports (what is being done, part done)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from motet.cli.terminal import remarks, say

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
    """Says each new thing once; a log has no use for percentages."""

    def __init__(self) -> None:
        self._last = ""

    def report(self, doing: str, _done: float) -> None:
        if doing != self._last:
            self._last = doing
            say(remarks(), f"{doing} ...")
