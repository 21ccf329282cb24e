"""A tl.dot for Triton's interpreter that sums every element in one order.

The interpreter multiplies with numpy, whose library sums a row in an order that depends on the
row's place in the tile. The matrix units of a GPU don't, so a test that compares bits puts this in
numpy's place.
"""

from __future__ import annotations

from typing import Any

import pytest
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def order_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test ends, a tl.dot adds up the inner dimension one element after the other."""
    monkeypatch.setattr(InterpreterBuilder, "create_dot", _dot)


def _dot(_builder: Any, a: Any, b: Any, d: Any, *_options: Any) -> Any:
    total = d.data.copy()
    for k in range(a.data.shape[1]):
        total += a.data[:, k, None].astype(total.dtype) * b.data[None, k]
    return TensorHandle(total, d.dtype.scalar)
