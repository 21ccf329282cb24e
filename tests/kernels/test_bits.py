"""The isolation promise of linears, bit for bit: a row alone equals the row in any company."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import Ops

from tests.support.cancelling import cancelling_product
from tests.support.kernel_cases import DTYPES, GroupCase, slots_of
from tests.support.ordered_dot import order_dots

SHAPES = [((24,), 60), ((64, 24, 7), 64), ((127,), 576), ((60, 60), 127)]


@pytest.fixture(autouse=True)
def _ordered_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    order_dots(monkeypatch)


def solo(case: GroupCase, ops: Ops, x: torch.Tensor, slot: int) -> tuple[torch.Tensor, ...]:
    return case.run(ops, x[None], [slot])


@pytest.mark.parametrize(("outs", "k"), SHAPES)
@pytest.mark.parametrize("num_tokens", [2, 3, 5, 8, 21, 40])
def test_a_row_alone_equals_the_row_in_a_batch(
    ops: Ops, outs: tuple[int, ...], k: int, num_tokens: int
) -> None:
    if ops.name == "gpu" and num_tokens > 8:
        pytest.skip("too many programs for the interpreter")
    for dtype in DTYPES[ops.name]:
        case = GroupCase.make(outs, k, ops.adapter_dtype(dtype))
        x = case.inputs(num_tokens, dtype)
        slots = slots_of("random", num_tokens)
        mixed = case.run(ops, x, slots)
        for t, slot in enumerate(slots):
            for y, alone in zip(mixed, solo(case, ops, x[t], slot), strict=True):
                assert torch.equal(y[t], alone[0])


@pytest.mark.parametrize("popularity", ["distinct", "skewed", "random"])
def test_permuted_rows_give_permuted_results(ops: Ops, popularity: str) -> None:
    num_tokens = 7 if ops.name == "gpu" else 33
    for dtype in DTYPES[ops.name]:
        case = GroupCase.make((24, 60), 60, ops.adapter_dtype(dtype))
        x = case.inputs(num_tokens, dtype)
        slots = slots_of(popularity, num_tokens)
        order = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(1))
        straight = case.run(ops, x, slots)
        permuted = case.run(ops, x[order], [slots[t] for t in order.tolist()])
        for y, z in zip(straight, permuted, strict=True):
            assert torch.equal(y[order], z)


def test_a_row_with_nan_stays_alone(ops: Ops) -> None:
    case = GroupCase.make((24,), 60, torch.float32)
    x = case.inputs(6, torch.float32)
    slots = [4, 4, 0, 4, 2, 0]
    clean = case.run(ops, x, slots)[0]
    x[1], x[2] = torch.nan, torch.inf
    others = [0, 3, 4, 5]
    assert torch.equal(case.run(ops, x, slots)[0][others], clean[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "k"), [(4, 64), (24, 60), (61, 127), (576, 1536), (64, 4096)])
def test_dense_rows_keep_their_bits(
    implementations: dict[str, Ops], dtype: torch.dtype, n: int, k: int
) -> None:
    """On sums that cancel: with ordinary numbers, rounding to bf16 hides another order."""
    x, weight = cancelling_product(100, n, k, dtype)
    ops = implementations["cpu"]
    large = ops.dense_linear(x, weight, None)
    for num_tokens in (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 33, 64, 65, 99):
        assert torch.equal(ops.dense_linear(x[:num_tokens], weight, None), large[:num_tokens])


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 16, 96])
def test_lowrank_rows_keep_their_bits_on_cancelling_sums(
    implementations: dict[str, Ops], rank: int
) -> None:
    case = GroupCase.make((60,), 64, torch.float32, biased=False)
    x, a = cancelling_product(40, rank, 64, torch.float32)
    lowrank = case.tables[0][4]
    assert lowrank is not None
    bt = torch.randn(rank, 60, generator=torch.Generator().manual_seed(2))
    case.tables[0].put(4, lowrank._replace(a=a, bt=bt * 1e6))
    ops = implementations["cpu"]
    large = case.run(ops, x, [4] * 40)[0]
    for num_tokens in (1, 2, 3, 4, 5, 7, 9, 16, 31):
        assert torch.equal(case.run(ops, x[:num_tokens], [4] * num_tokens)[0], large[:num_tokens])
