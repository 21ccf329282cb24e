"""What native attention promises beyond the shared contract: any chunking, any threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from motet_kernels import AttentionRow, Ops

from tests.support.attention_cases import CPU, AttentionCase, Heads
from tests.support.kernel_cases import assert_close

DTYPES = (torch.float32, torch.bfloat16)
HEADS = [Heads(9, 3, 64, 64), Heads(5, 1, 80, 24), Heads(4, 4, 7, 100)]


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS)
def test_chunks_do_not_show(native: Ops, heads: Heads, dtype: torch.dtype) -> None:
    """A context in one row, in chunks, and token by token: the same bits."""
    whole = AttentionCase.make([(50, 130)], dtype, heads=heads)
    blocks = whole.rows[0].blocks
    for window, softcap in ((None, None), (20, 3.0)):
        (expected,) = whole.run(native, window=window, softcap=softcap)
        for lens in ((17, 1, 32), (1,) * 50):
            rows, start = [], 0
            for num_tokens in lens:
                kv_len = 80 + start + num_tokens
                rows.append(AttentionRow(start, num_tokens, kv_len, blocks))
                start += num_tokens
            parts = replace(whole, rows=tuple(rows)).run(native, window=window, softcap=softcap)
            assert torch.equal(torch.cat(parts), expected)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_nothing(native: Ops, dtype: torch.dtype) -> None:
    case = AttentionCase.make([(1, 65), (9, 20), (1, 3)], dtype, heads=HEADS[0])
    results = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        results.append(torch.cat(case.run(native)))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_context(native: Ops, dtype: torch.dtype) -> None:
    case = AttentionCase.make([(2, 1000), (1, 1001)], dtype, heads=Heads(3, 1, 32, 32))
    for out, expected in zip(case.run(native), case.expected(), strict=True):
        assert_close(out, expected)


def test_scores_far_apart(native: Ops) -> None:
    """One key far above the rest takes all; equal keys share."""
    case = AttentionCase.make([(1, 20)], torch.float32)
    far = replace(case, q=case.q * 30)
    assert_close(far.run(native)[0], far.expected()[0])
    level = replace(case, q=case.q * 0)
    assert_close(level.run(native)[0], level.expected()[0])


def test_what_lies_outside_the_cache_is_refused(native: Ops) -> None:
    case = AttentionCase.make([(1, 20)], torch.float32)
    row = case.rows[0]._replace(blocks=(0, len(case.k_cache)))
    with pytest.raises(ValueError, match="out of range"):
        replace(case, rows=(row,)).run(native)
    with pytest.raises(ValueError, match="start at 0"):
        native.plan_attention([case.rows[0]._replace(blocks=(0, -1))], 16, CPU)
    with pytest.raises(ValueError, match="the plan is for"):
        replace(case, q=torch.cat([case.q, case.q])).run(native)
    k = torch.zeros(1, 2, 16)
    before = case.k_cache.clone()
    for slot in (-1, case.k_cache.shape[0] * 16):
        with pytest.raises(IndexError, match="outside the cache"):
            native.store_kv(k, k, case.k_cache, case.v_cache, torch.tensor([slot]))
    assert torch.equal(case.k_cache.nan_to_num(), before.nan_to_num())
