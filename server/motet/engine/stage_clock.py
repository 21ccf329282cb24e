"""Where the time of a step goes, by what it is spent on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch

Stage = Literal["attention", "linears", "adapters", "lm_head", "small", "sampling"]
"""lm_head: the output head and whatever other linear is not quantised. small: norms, rotary
embeddings with the storing of keys and values, and the gate of the MLP."""


class StageClock:
    """Adds up the wall time of the parts of a runtime that it is wrapped around.

    CUDA computes while Python goes on, so there it waits for the device before each look at the
    time: stages are right, and their sum is more than a step takes when nobody looks.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """What is done in this context is part of `stage`."""
        started = self.now()
        yield
        self.add(stage, self.now() - started)

    def add(self, stage: Stage, seconds: float) -> None:
        """Add time that somebody else has taken."""
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def take(self) -> Mapping[Stage, float]:
        """Seconds since the last `take`, which the next one begins without."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    @staticmethod
    def now() -> float:
        """Seconds from some moment on, with nothing left to compute on a device."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        return time.perf_counter()
