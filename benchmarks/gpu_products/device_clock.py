"""Median times of contenders that take turns on a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch


class DeviceClock:
    """On CUDA by events, which the device's own clock stamps; on the CPU, for tests, by ours."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device = device
        self._rounds = rounds

    def medians(self, contenders: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of each contender, after two calls that compile and choose."""
        with torch.inference_mode():
            for contender in contenders * 2:
                contender()
            times: list[list[float]] = [[] for _ in contenders]
            for _ in range(self._rounds):
                for found, contender in zip(times, contenders, strict=True):
                    found.append(self._time(contender))
        return [median(each) for each in times]

    def _time(self, contender: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            started = time.perf_counter()
            contender()
            return time.perf_counter() - started
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        contender()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3


def in_turn(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """A contender that makes the next of the calls each time."""
    turn = -1

    def contender() -> object:
        nonlocal turn
        turn = (turn + 1) % len(calls)
        return calls[turn]()

    return contender
