"""Captures on a stand-in for torch's CUDA, which keeps the one rule that matters: streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from motet.engine.cuda_graph import CudaCapture

DEVICE = torch.device("cuda", 0)


class StandIn:
    """torch.cuda as far as a capture uses it. As there, a capture that cannot be ended leaves its
    stream the current one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current: Any = "default"
        self.ends_well = True
        for name in ("Stream", "CUDAGraph", "graph", "device", "current_stream", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")

    def Stream(self, device: torch.device, priority: int) -> tuple[str, int]:
        return "stream", priority

    def CUDAGraph(self) -> StandIn:
        return self

    def graph(self, _graph: object, *, pool: str, stream: Any, capture_error_mode: str) -> Any:
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        self.capturing = stream
        return self

    def device(self, _device: torch.device) -> StandIn.Nothing:
        return StandIn.Nothing()

    def current_stream(self, _device: torch.device) -> Any:
        return self.current

    def set_stream(self, stream: Any) -> None:
        self.current = stream

    def __enter__(self) -> None:
        self.before, self.current = self.current, self.capturing

    def __exit__(self, *_error: object) -> None:
        if not self.ends_well:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.current = self.before

    class Nothing:
        def __enter__(self) -> None: ...

        def __exit__(self, *_error: object) -> None: ...


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(monkeypatch)


def test_a_pass_is_captured_on_a_stream_that_no_loader_can_be_given(cuda: StandIn) -> None:
    seen = []

    def forward() -> torch.Tensor:
        seen.append(cuda.current)
        return torch.tensor(7)

    assert int(CudaCapture(DEVICE)(forward).output) == 7
    (stream,) = seen
    assert stream[1] != 0, "of the priority of torch.cuda.Stream(), as the arena's are"
    assert cuda.current == "default"


def test_a_capture_that_fails_leaves_the_stream_as_it_was(cuda: StandIn) -> None:
    cuda.ends_well = False

    def forward() -> torch.Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError):
        CudaCapture(DEVICE)(forward)
    assert cuda.current == "default"
