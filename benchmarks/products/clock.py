"""Best times of contenders that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence


class Clock:
    def __init__(self, num_threads: int, rounds: int) -> None:
        # One thread's own CPU time is what other processes disturb least.
        self._now = time.thread_time if num_threads == 1 else time.perf_counter
        self._rounds = rounds

    def best(self, contenders: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each contender's best round, after one that is not counted."""
        for contender in contenders:
            contender()
        times = [float("inf")] * len(contenders)
        for _ in range(self._rounds):
            for i, contender in enumerate(contenders):
                start = self._now()
                contender()
                times[i] = min(times[i], self._now() - start)
        return times


def each(items: Sequence[object], work: Callable[..., object]) -> Callable[[], None]:
    """A contender: the same work on each of the items in turn."""

    def run() -> None:
        for item in items:
            work(item)

    return run
