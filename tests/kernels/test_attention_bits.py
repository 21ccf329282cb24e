"""The isolation promise of attention, bit for bit."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import Ops

from tests.support.attention_cases import AttentionCase, Heads
from tests.support.kernel_cases import DTYPES
from tests.support.ordered_dot import order_dots

CPU_DTYPES = DTYPES["cpu"]
SMOLLM = Heads(9, 3, 64, 64)
HEADS = [SMOLLM, Heads(4, 4, 16, 16), Heads(8, 1, 24, 24), Heads(4, 2, 16, 24), Heads(2, 1, 5, 5)]


@pytest.fixture(autouse=True)
def _ordered_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    order_dots(monkeypatch)


def assert_rows_alone_are_the_same(
    ops: Ops, case: AttentionCase, *, window: int | None = None, softcap: float | None = None
) -> None:
    mixed = case.run(ops, window=window, softcap=softcap)
    for index, out in enumerate(mixed):
        (alone,) = case.only(index).run(ops, window=window, softcap=softcap)
        assert torch.equal(out, alone)


@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 32])
def test_one_token_rows_of_one_bucket(
    implementations: dict[str, Ops], num_rows: int, heads: Heads, dtype: torch.dtype
) -> None:
    case = AttentionCase.make([(1, 65 + i) for i in range(num_rows)], dtype, heads=heads)
    assert_rows_alone_are_the_same(implementations["cpu"], case)
    assert_rows_alone_are_the_same(implementations["cpu"], case, softcap=3.0)


@pytest.mark.parametrize("window", [None, 10])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_rows_of_all_lengths(ops: Ops, window: int | None, softcap: float | None) -> None:
    for dtype in DTYPES[ops.name]:
        case = AttentionCase.make([(1, 5), (8, 20), (1, 70), (3, 3), (1, 64), (1, 6)], dtype)
        assert_rows_alone_are_the_same(ops, case, window=window, softcap=softcap)


def test_order_of_rows(ops: Ops) -> None:
    for dtype in DTYPES[ops.name]:
        case = AttentionCase.make([(1, 5), (8, 20), (1, 70), (3, 3), (1, 64), (1, 6)], dtype)
        order = [3, 5, 0, 2, 4, 1]
        straight = case.run(ops)
        for index, out in zip(order, case.with_rows(order).run(ops), strict=True):
            assert torch.equal(out, straight[index])


@pytest.mark.parametrize("dtype", CPU_DTYPES)
@pytest.mark.parametrize("num_rows", [2, 7, 32])
def test_cancelling_values_show_the_order_of_the_sum(
    implementations: dict[str, Ops], num_rows: int, dtype: torch.dtype
) -> None:
    """Pairs of equal keys with opposite values: the exact result is zero, the rest is rounding."""
    case = AttentionCase.make([(1, 128)] * num_rows, dtype, heads=SMOLLM)
    generator = torch.Generator().manual_seed(5)
    for row in case.rows:
        blocks = list(row.blocks)
        k, v = case.k_cache[blocks].flatten(0, 1), case.v_cache[blocks].flatten(0, 1)
        order = 64 + torch.randperm(64, generator=generator)
        v *= torch.exp2(torch.randint(-12, 12, (128, 1, 1), generator=generator)).to(dtype)
        k[order], v[order] = k[:64].clone(), -v[:64]
        case.k_cache[blocks] = k.view_as(case.k_cache[blocks])
        case.v_cache[blocks] = v.view_as(case.v_cache[blocks])
    assert_rows_alone_are_the_same(implementations["cpu"], case)


def test_a_row_with_nan_stays_alone(ops: Ops) -> None:
    case = AttentionCase.make([(1, 5), (8, 20), (1, 6)], torch.float32)
    clean = case.run(ops)
    case.k_cache[case.rows[0].blocks[0], 2] = torch.nan
    case.v_cache[case.rows[1].blocks[0], 2] = torch.nan
    assert torch.equal(case.run(ops)[2], clean[2])
