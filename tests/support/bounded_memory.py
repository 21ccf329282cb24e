"""Triton's interpreter, made to refuse loads and stores outside of tensors.

A value that is read beside a tensor and then not used changes no result, and on a GPU may end the
process: a forgotten mask shows here only.
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder


class _Bounds:
    """The memory of all tensors that were there when the kernel was launched."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []

    def look(self) -> None:
        storages = [
            each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor
        ]
        self._spans = [(each.data_ptr(), each.data_ptr() + each.nbytes()) for each in storages]

    def check(self, pointers: Any, mask: Any) -> None:
        """Raises IndexError unless all that the mask leaves lies in one tensor's memory."""
        used = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]
        if used.size:
            bits = pointers.get_element_ty().primitive_bitwidth
            first, stop = int(used.min()), int(used.max()) + max(bits, 8) // 8
            if not any(start <= first and stop <= end for start, end in self._spans):
                raise IndexError(f"a kernel reaches {stop - first} bytes outside of any tensor")


def bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, an interpreted kernel that leaves its tensors raises an error."""
    bounds = _Bounds()
    begin, load = InterpreterBuilder.set_grid_dim, InterpreterBuilder.create_masked_load
    store = InterpreterBuilder.create_masked_store

    def set_grid_dim(builder: Any, *sizes: int) -> None:
        bounds.look()
        begin(builder, *sizes)

    def create_masked_load(builder: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        bounds.check(pointers, mask)
        return load(builder, pointers, mask, *rest)

    def create_masked_store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        bounds.check(pointers, mask)
        return store(builder, pointers, value, mask, *rest)

    for patched in (set_grid_dim, create_masked_load, create_masked_store):
        monkeypatch.setattr(InterpreterBuilder, patched.__name__, patched)
