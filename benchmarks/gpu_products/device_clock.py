"""Median times of contenders that take turns on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import torch
from motet_kernels.gpu.device_time import seconds_of


class DeviceClock:
    """What the kernels take, not what launching them does: see `seconds_of`."""

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
                    found.append(seconds_of(contender, self.device))
        return [median(each) for each in times]


def in_turn(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """A contender that makes the next of the calls each time."""
    turn = -1

    def contender() -> object:
        nonlocal turn
        turn = (turn + 1) % len(calls)
        return calls[turn]()

    return contender
