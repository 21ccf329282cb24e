"""Forward passes that are captured once and replayed: which, and for how long. No CUDA in here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

from motet_kernels import LaunchShape
from torch import Tensor

log = logging.getLogger(__name__)

MOST_GRAPHS = 64
"""Graphs kept at a time: each has tens of megabytes of its own on the device."""


class StepKey(NamedTuple):
    """Steps with the same key launch the same kernels on the same addresses."""

    num_tokens: int  # padding included, each a row of its own
    shape: LaunchShape


class Captured(Protocol):
    def replay(self) -> Tensor:
        """Run it on what its inputs' memory holds now; the output, valid until the next replay."""
        ...


class StepGraphs:
    """The captured forward passes of one model.

    A step of a kind that is seen for the first time runs as it is: that compiles kernels, and lets
    libraries set themselves up, neither of which a capture allows. The second is captured. A kind
    that cannot be captured runs as it is from then on.
    """

    def __init__(self, capture: Callable[[Callable[[], Tensor]], Captured]) -> None:
        """capture: records what a forward pass launches, and does not run it."""
        self.num_captures = 0
        self.num_replays = 0
        self._capture = capture
        self._version: Hashable = None
        self._seen: set[StepKey] = set()
        self._graphs: dict[StepKey, Captured] = {}
        self._refused: set[StepKey] = set()

    def run(self, key: StepKey, version: Hashable, forward: Callable[[], Tensor]) -> Tensor:
        """The output of `forward`, whose inputs are in place.

        version: whatever else launches depend on, such as where the inputs are. When it is another
        than the last time, nothing captured before is replayed any more.
        """
        if version != self._version:
            self._forget(version)
        if key in self._refused:
            return forward()
        if key not in self._seen:
            self._seen.add(key)
            return forward()
        if key not in self._graphs and not self._captures(key, forward):
            return forward()
        # the latest last, so that the first is the one to go
        graph = self._graphs[key] = self._graphs.pop(key)
        self.num_replays += 1
        return graph.replay()

    def _captures(self, key: StepKey, forward: Callable[[], Tensor]) -> bool:
        if len(self._graphs) >= MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        try:
            self._graphs[key] = self._capture(forward)
        except Exception as error:
            # whatever a model does in its forward, or a driver says: it runs without a graph
            log.warning("a step of %d rows runs without a graph: %s", key.num_tokens, error)
            self._refused.add(key)
            return False
        self.num_captures += 1
        return True

    def _forget(self, version: Hashable) -> None:
        self._version = version
        self._seen.clear()
        self._graphs.clear()
        self._refused.clear()


def row_buckets(most: int, multiple: int) -> tuple[int, ...]:
    """Numbers of rows that steps are padded up to, for steps of up to `most` rows, ascending.

    Multiples of `multiple`: twice the one before, from 8 of them on half as many again at most. So
    graphs are few, and so are the rows that are computed for nobody.
    """
    steps = [1]
    while steps[-1] * multiple < most:
        last = steps[-1]
        half = 1 << (last.bit_length() - 1)
        steps.append(last + max(1, half // 2) if last >= 8 else 2 * last)
    return tuple(step * multiple for step in steps)
