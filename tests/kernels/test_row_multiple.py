"""Finding the row multiple: it must catch a product whose rows depend on their company."""

from __future__ import annotations

import pytest
import torch
from motet_kernels.cpu.row_multiple import CANDIDATES, RowMultiples, isolated_linear
from torch import Tensor
from torch.nn import functional as F

plain_linear = F.linear


def linear_with_switches(x: Tensor, weight: Tensor) -> Tensor:
    """Another order of the sum below 6 rows, as matrix libraries have it."""
    if x.shape[0] < 6:
        return plain_linear(x.flip(1), weight.flip(1))
    return plain_linear(x, weight)


def linear_by_place(x: Tensor, weight: Tensor) -> Tensor:
    """Another order of the sum in every second row."""
    y = plain_linear(x, weight)
    y[::2] = plain_linear(x.flip(1), weight.flip(1))[::2]
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_catches_a_switch_by_row_count(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(F, "linear", linear_with_switches)
    multiple = RowMultiples().of(dtype, [(96, 256)])
    assert multiple in CANDIDATES
    assert multiple >= 8


def test_without_a_multiple_rows_are_multiplied_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "linear", linear_by_place)
    multiples = RowMultiples()
    assert multiples.of(torch.float32, [(96, 256)]) is None
    with pytest.raises(RuntimeError, match="another number of threads"):
        multiples.dense(torch.float32)
    x, weight = torch.randn(5, 256), torch.randn(96, 256)
    together = isolated_linear(x, weight, None)
    for t in range(5):
        assert torch.equal(together[t], isolated_linear(x[t : t + 1], weight, None)[0])
    assert isolated_linear(x[:0], weight, None).shape == (0, 96)


def test_this_machine_has_a_multiple() -> None:
    multiples = RowMultiples()
    for dtype in (torch.float32, torch.bfloat16):
        assert multiples.dense(dtype) in CANDIDATES
    assert multiples.low_rank(torch.float32) in CANDIDATES
