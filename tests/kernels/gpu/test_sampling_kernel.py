"""Tokens chosen on the device: by the host's definition, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from motet.engine.draw import draw, weighted
from motet.engine.request import SamplingParams
from motet_kernels.gpu import sampling_kernel
from motet_kernels.gpu.sampling_kernel import choose
from motet_kernels.sampling import Draw
from torch import Tensor

VOCAB = 320

CONTROLS = [
    {},
    {"temperature": 0.3},
    {"temperature": 3.0, "min_p": 0.2},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": VOCAB},
    {"top_p": 0.5},
    {"top_p": 0.001},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "temperature": 1.7},
]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for a small vocabulary, the last of them not full."""
    monkeypatch.setattr(sampling_kernel, "BLOCK", 128)


def logits_of(num_rows: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("controls", CONTROLS)
def test_the_host_s_choice(controls: dict[str, float]) -> None:
    params = SamplingParams(max_tokens=1, **controls)  # type: ignore[arg-type]
    us = np.linspace(0, 1, 24, endpoint=False) + 1e-3
    logits = logits_of(len(us))
    draws = [Draw(params.temperature, params.min_p, params.top_k, params.top_p, u) for u in us]
    expected = [draw(row.numpy(), params, u) for row, u in zip(logits, us, strict=True)]
    assert choose(logits, draws).tolist() == expected


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = logits_of(3)
    logits[0, [200, 30, 310]] = 50.0
    logits[1, 319] = 50.0
    tokens = choose(logits, [Draw(0, 0, 0, 1, 0)] * 3).tolist()
    assert tokens == [30, 319, int(logits[2].argmax())]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_fails_alone(value: float) -> None:
    logits = logits_of(3)
    logits[1, 300] = value
    for temperature in (0.0, 1.0):
        tokens = choose(logits, [Draw(temperature, 0, 0, 1, 0.5)] * 3).tolist()
        assert tokens[1] == -1
        assert min(tokens[0], tokens[2]) >= 0


def test_nothing_but_minus_infinity_is_no_token() -> None:
    logits = torch.full((1, VOCAB), -torch.inf)
    assert choose(logits, [Draw(1.0, 0, 0, 1, 0.5)]).tolist() == [-1]
    logits[0, 7] = -3.0
    assert choose(logits, [Draw(1.0, 0, 5, 0.5, 0.999)]).tolist() == [7]


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.25), (9, 0.5)])
def test_of_equal_logits_the_first_are_kept(top_k: int, top_p: float) -> None:
    """Twenty equal logits on both sides of a block's border, all others far below."""
    logits = torch.full((1, VOCAB), -80.0)
    logits[0, 120:140] = 1.0
    params = SamplingParams(max_tokens=1, top_k=top_k, top_p=top_p)
    kept = set(np.flatnonzero(weighted(logits[0].numpy(), params)).tolist())
    us = np.linspace(0, 1, 14, endpoint=False) + 1e-4  # more than are kept
    draws = [Draw(1.0, 0, top_k, top_p, u) for u in us]
    assert set(choose(logits.expand(len(us), -1), draws).tolist()) == kept


def test_logits_of_16_bits_and_rows_apart() -> None:
    wide = logits_of(4).half()
    draws = [Draw(0.7, 0.01, 30, 0.9, 0.1 + 0.2 * row) for row in range(4)]
    together = choose(wide, draws).tolist()
    assert [choose(wide[row : row + 1], [draws[row]]).item() for row in range(4)] == together
    assert choose(wide.repeat(1, 2)[:, :VOCAB], draws).tolist() == together
