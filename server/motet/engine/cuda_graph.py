"""CUDA graphs of forward passes: the part of step_graphs.py that needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CudaGraph:
    """What one forward pass launched, on the addresses it had."""

    graph: torch.cuda.CUDAGraph
    output: Tensor  # in the graph's own memory

    def replay(self) -> Tensor:
        self.graph.replay()
        return self.output


class CudaCapture:
    """Captures forward passes on one device; their intermediate results share one pool of memory,
    as no two of them run at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # torch hands streams out again after 32 of them, to each priority by itself. Adapters are
        # loaded on streams of the usual one: of another, ours is never theirs, whose copies would
        # be captured instead of made.
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def __call__(self, forward: Callable[[], Tensor]) -> CudaGraph:
        """Raises RuntimeError where the pass waits for the device, or copies from memory that may
        move; the current stream is then what it was."""
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        # of this thread alone: others load adapters meanwhile
        mode = "thread_local"
        captured = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode=mode
        )
        try:
            with torch.cuda.device(self._device), captured:
                output = forward()
        finally:
            # A capture that fails leaves torch on its stream, where the step would run next to
            # the copies that it has to wait for.
            torch.cuda.set_stream(current)
        return CudaGraph(graph, output)
