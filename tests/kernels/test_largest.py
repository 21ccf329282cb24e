"""Where logits are largest: every level against the definition."""

from __future__ import annotations

import math

import pytest
import torch
from motet_kernels import LargestOps, Ops, ReferenceOps
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REFERENCE = ReferenceOps()


def places(native: Ops, logits: Tensor) -> list[int]:
    """By this level, whatever the number of threads; the definition's are the same."""
    assert isinstance(native, LargestOps)
    found: list[int] = native.largest(logits).tolist()
    assert found == REFERENCE.largest(logits).tolist()
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 15, 16, 17, 127, 1000])
def test_random_rows(native: Ops, width: int, dtype: torch.dtype) -> None:
    logits = torch.randn(7, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    for some in (logits, -logits.abs() - 1):  # the second with no zero to be mistaken
        assert places(native, some) == some.float().argmax(dim=-1).tolist()


@pytest.mark.parametrize("at", [0, 15, 16, 31, 32, 36])
def test_of_equals_the_first(native: Ops, at: int) -> None:
    logits = torch.full((2, 37), -3.0)
    logits[1, at:] = 2.5
    assert places(native, logits) == [0, at]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [0, 20, 36])
def test_rows_without_a_largest(native: Ops, at: int, dtype: torch.dtype) -> None:
    """A NaN, an infinity or nothing possible fails its own row; -inf only rules a token out."""
    logits = torch.zeros(5, 37, dtype=dtype)
    for row, value in enumerate((math.nan, math.inf, -math.inf)):
        logits[row, at] = value
    logits[3] = -math.inf
    logits[4] = -math.inf
    logits[4, at] = -7.0
    assert places(native, logits) == [-1, -1, 1 if at == 0 else 0, -1, at]


def test_a_step_without_rows(native: Ops) -> None:
    assert places(native, torch.empty(0, 5)) == []


def test_rows_that_are_not_contiguous(native: Ops) -> None:
    logits = torch.arange(24.0).view(4, 6).t()
    assert places(native, logits) == [3] * 6
