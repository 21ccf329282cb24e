"""What a CUDA graph does, on the CPU: a forward pass recorded once, run again on the same memory.

Recorded are torch's operations with the tensors they had, and launches of Triton's interpreter.
Python is not run again, so a step that depends on anything but what its tensors hold answers
wrongly; and what a capture on CUDA refuses, this one refuses: to look at a tensor's numbers, and to
copy numbers that Python has just made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

# They wait for the device, or copy from memory that Python lets go of.
REFUSED = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "is_nonzero", "equal")


@dataclass(frozen=True)
class RecordedGraph:
    calls: list[Callable[[], None]]
    output: Tensor

    def replay(self) -> Tensor:
        with torch.inference_mode():
            for call in self.calls:
                call()
        return self.output


class Recorder:
    """A capture for `StepGraphs`: `with Recorder.installed(monkeypatch) ...` is not needed on a
    GPU, where the launches are recorded by CUDA."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._mode: _Mode | None = None
        launch = GridExecutor.__call__

        def recorded(executor: Any, *args: Any, **kwargs: Any) -> None:
            mode, self._mode = self._mode, None
            if mode is None:
                launch(executor, *args, **kwargs)
                return
            mode.paused = True
            mode.calls.append(lambda: launch(executor, *args, **kwargs))
            launch(executor, *args, **kwargs)
            mode.paused = False
            self._mode = mode

        monkeypatch.setattr(GridExecutor, "__call__", recorded)

    def __call__(self, forward: Callable[[], Tensor]) -> RecordedGraph:
        self._mode = mode = _Mode()
        try:
            with mode:
                output = forward()
        finally:
            self._mode = None
        return RecordedGraph(mode.calls, output)


class _Mode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in REFUSED:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        out = func(*args, **kwargs)
        self.calls.append(lambda: _again(func, args, kwargs, out))
        return out


def _again(func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Run it once more and leave the result where it was the first time."""
    if func.overloadpacket.__name__ in ("empty", "empty_like", "new_empty", "empty_strided"):
        return
    inputs = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if _is(t)}
    for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
        if _is(old) and old.untyped_storage().data_ptr() not in inputs:
            old.copy_(new)


def _is(value: object) -> bool:
    return isinstance(value, Tensor)
