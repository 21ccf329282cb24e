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

    def __call__(self, forward: Callable[[], Tensor]) -> CudaGraph:
        """Raises RuntimeError where the pass waits for the device, or copies from memory that may
        move."""
        graph = torch.cuda.CUDAGraph()
        # of this thread alone: others load adapters meanwhile, on streams of their own
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            output = forward()
        return CudaGraph(graph, output)
