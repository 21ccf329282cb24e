"""The time that a call's kernels take on a device, without the time that launching them takes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# Cycles that a device is kept busy for while the host puts the call's kernels into its queue: about
# a millisecond. A call of ours is Python, and takes the host longer than small kernels run.
BUSY_CYCLES = 2_000_000


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Between events around the call's kernels, on CUDA; elsewhere, for tests, by our own clock."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    # Without it the first event would pass at once, and what follows wait for the host.
    torch.cuda._sleep(BUSY_CYCLES)  # type: ignore[no-untyped-call]
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3
