"""The contract of paged attention, on every implementation.

The gpu implementation runs its Triton kernels on CPU tensors through the interpreter, which is
right in float32 and float16 only.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from motet_kernels import AttentionRow, Ops

from tests.support.attention_cases import CPU, AttentionCase, Heads
from tests.support.kernel_cases import DTYPES, assert_close
from tests.support.poison import poisoned_memory

MIXED = [(1, 5), (3, 20), (1, 64), (1, 65), (7, 7), (1, 1), (5, 70)]


def check(ops: Ops, case: AttentionCase, window: int | None, softcap: float | None) -> None:
    with poisoned_memory():
        actual = case.run(ops, window=window, softcap=softcap)
    for out, expected in zip(actual, case.expected(window=window, softcap=softcap), strict=True):
        assert out.dtype == case.q.dtype
        assert_close(out, expected)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 4, 66, 500])
def test_windows_and_softcap(ops: Ops, window: int | None, softcap: float | None) -> None:
    for dtype in DTYPES[ops.name]:
        check(ops, AttentionCase.make(MIXED, dtype), window, softcap)


@pytest.mark.parametrize(
    "heads",
    [Heads(3, 3), Heads(9, 3, 8, 8), Heads(6, 1), Heads(4, 2, 20, 20), Heads(4, 2, 16, 24)],
    ids=["mha", "gqa", "mqa", "odd size", "Dv > D"],
)
def test_heads(ops: Ops, heads: Heads) -> None:
    for dtype in DTYPES[ops.name]:
        check(ops, AttentionCase.make([(1, 9), (4, 18)], dtype, heads=heads), None, None)


@pytest.mark.parametrize("block_size", [1, 5, 32])
def test_block_sizes(ops: Ops, block_size: int) -> None:
    check(ops, AttentionCase.make(MIXED, torch.float32, block_size=block_size), None, None)


def test_rows_that_share_a_block_table(ops: Ops) -> None:
    """A context computed again as one-token rows: each sees the keys up to its own position."""
    case = AttentionCase.make([(1, 40)], torch.float32)
    blocks = case.rows[0].blocks
    rows = tuple(AttentionRow(i, 1, 20 + i, blocks) for i in range(6))
    q = torch.randn(6, 4, 16, generator=torch.Generator().manual_seed(3))
    apart = replace(case, q=q, rows=rows)
    check(ops, apart, None, None)
    together = replace(case, q=q, rows=(AttentionRow(0, 6, 25, blocks),))
    assert_close(together.run(ops)[0], torch.cat(apart.run(ops)))


@pytest.mark.parametrize("lens", [MIXED, [(7, 40)], [(1, 40), (1, 41)]])
@pytest.mark.parametrize("num_kv_heads", [2, 4])
def test_queries_need_not_be_contiguous(
    ops: Ops, lens: list[tuple[int, int]], num_kv_heads: int
) -> None:
    case = AttentionCase.make(lens, torch.float32, heads=Heads(4, num_kv_heads))
    strided = replace(case, q=case.q.transpose(0, 1).contiguous().transpose(0, 1))
    for out, same in zip(strided.run(ops), case.run(ops), strict=True):
        assert torch.equal(out, same)


def test_store_kv_writes_its_slots_alone(ops: Ops) -> None:
    k_cache, v_cache = torch.zeros(4, 5, 2, 8), torch.zeros(4, 5, 2, 6)
    k, v = torch.randn(2, 3, 8).transpose(0, 1), torch.randn(3, 2, 6)
    slots = torch.tensor([17, 2, 9])
    ops.store_kv(k, v, k_cache, v_cache, slots)
    assert torch.equal(k_cache.view(20, 2, 8)[slots], k)
    assert torch.equal(v_cache.view(20, 2, 6)[slots], v)
    assert k_cache.count_nonzero() == k.numel()
    assert v_cache.count_nonzero() == v.numel()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (AttentionRow(1, 1, 1, (0,)), "starts at 0"),
        (AttentionRow(0, 0, 1, (0,)), "1 to kv_len queries"),
        (AttentionRow(0, 3, 2, (0,)), "1 to kv_len queries"),
        (AttentionRow(0, 1, 17, (0,)), "hold less than kv_len"),
    ],
)
def test_rows_that_cannot_be_are_refused(ops: Ops, row: AttentionRow, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.plan_attention([row], 16, CPU)
