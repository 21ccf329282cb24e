"""What is timed of a call on a GPU, on a stand-in for torch's CUDA that notes what it is told."""

from __future__ import annotations

import pytest
import torch
from motet_kernels.gpu.device_time import seconds_of


def test_the_device_is_busy_before_the_first_event_until_the_call_is_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            queue.append("event")

        def synchronize(self) -> None:
            queue.append("wait")

        def elapsed_time(self, stop: Event) -> float:
            assert stop is not self
            return 2.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda _cycles: queue.append("busy"))
    seconds = seconds_of(lambda: queue.append("kernels"), torch.device("cuda"))
    assert queue == ["busy", "event", "kernels", "event", "wait"]
    assert seconds == pytest.approx(2e-3)


def test_elsewhere_our_own_clock_is_read() -> None:
    assert 0 <= seconds_of(lambda: None, torch.device("cpu")) < 60
