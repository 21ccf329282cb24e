"""Paged attention in Triton: pages, splits and their merging, bits that are a row's own.

Through the interpreter, on splits so short that small cases have many of them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from motet_kernels import AttentionPlan, AttentionRow
from motet_kernels.gpu import paged_attention
from motet_kernels.gpu.attention_plan import (
    MAX_PARTIAL_ROWS,
    MAX_SPLITS,
    MOST_PARTIAL_TOKENS,
    GpuAttentionPlan,
    HostPlan,
    plan_attention,
    split_length,
)
from motet_kernels.gpu.gpu_ops import GpuOps
from motet_kernels.gpu.tuning import AttentionConfig
from torch import Tensor

from tests.support.attention_cases import CPU, AttentionCase, Heads
from tests.support.kernel_cases import assert_close
from tests.support.ordered_dot import order_dots
from tests.support.poison import poisoned_memory

SHORT = AttentionConfig(block_queries=16, block_keys=16, split_len=16, num_warps=4, num_stages=1)


class ShortSplits(GpuOps):
    """The GPU's attention with splits of 16 keys at first: 16 splits hold 240, then twice that."""

    def plan_attention(
        self, rows: object, block_size: int, device: torch.device
    ) -> GpuAttentionPlan:
        return plan_attention(rows, block_size, SHORT.split_len, device)  # type: ignore[arg-type]

    def attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        plan: AttentionPlan,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        assert isinstance(plan, GpuAttentionPlan)
        return paged_attention.attention(
            q, k_cache, v_cache, plan, SHORT, scale=scale, window=window, softcap=softcap
        )


OPS = ShortSplits()


@pytest.fixture
def _ordered_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    order_dots(monkeypatch)


def check(case: AttentionCase, window: int | None = None, softcap: float | None = None) -> None:
    with poisoned_memory():
        actual = case.run(OPS, window=window, softcap=softcap)
    for out, expected in zip(actual, case.expected(window=window, softcap=softcap), strict=True):
        assert_close(out, expected)


@pytest.mark.parametrize("window", [None, 1, 15, 16, 17, 40])
@pytest.mark.parametrize("kv_len", [16, 17, 32, 33, 100])
def test_splits_of_one_token(kv_len: int, window: int | None) -> None:
    for dtype in (torch.float32, torch.float16):
        check(AttentionCase.make([(1, kv_len), (1, 3)], dtype), window)


@pytest.mark.parametrize("num_tokens", [2, 20, MOST_PARTIAL_TOKENS + 1])
def test_splits_of_rows_with_several_tokens(num_tokens: int) -> None:
    check(AttentionCase.make([(num_tokens, 90), (1, 50)], torch.float32), window=37, softcap=2.0)


@pytest.mark.parametrize(
    "heads",
    [Heads(9, 3, 8, 8), Heads(20, 1, 16, 16), Heads(4, 2, 20, 36), Heads(2, 2, 40, 24)],
    ids=["G = 3", "G over a tile", "Dv > D, odd", "D > Dv, odd"],
)
def test_heads_of_any_size(heads: Heads) -> None:
    check(AttentionCase.make([(1, 40), (5, 50)], torch.float32, heads=heads), window=30)


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_pages_of_any_size(block_size: int) -> None:
    case = AttentionCase.make([(1, 70), (9, 35)], torch.float32, block_size=block_size)
    check(case, window=20)


def test_growing_splits() -> None:
    """From 240 keys on the splits are 32 long; a row across the border has tokens of both kinds."""
    case = AttentionCase.make([(4, 242), (1, 300)], torch.float16, heads=Heads(1, 1))
    check(case)
    check(case, window=250)


@pytest.mark.usefixtures("_ordered_dots")
def test_bits_do_not_depend_on_the_other_tokens_of_the_row() -> None:
    """Any chunking gives a token the same bits: alone, in a chunk, in parts or by one program."""
    case = AttentionCase.make([(250, 250)], torch.float16, heads=Heads(2, 1))
    blocks = case.rows[0].blocks
    for window, cuts in (
        (None, [0, 1, 2, 50, 51, 250]),
        (None, [0, 70, 239, 240, 241, 250]),
        (33, [0, 160, 161, 238, 242, 250]),
    ):
        whole = case.run(OPS, window=window)[0]
        spans = pairwise(cuts)
        rows = tuple(AttentionRow(a, b - a, b, blocks) for a, b in spans)
        chunked = torch.cat(replace(case, rows=rows).run(OPS, window=window))
        assert torch.equal(chunked, whole)


@pytest.mark.usefixtures("_ordered_dots")
def test_bits_do_not_depend_on_the_rows_beside_it() -> None:
    lens = [(1, 200), (3, 20), (70, 100), (1, 1), (1, 17), (40, 130)]
    case = AttentionCase.make(lens, torch.float16, heads=Heads(3, 1))
    mixed = case.run(OPS, window=60)
    for index, out in enumerate(mixed):
        (alone,) = case.only(index).run(OPS, window=60)
        assert torch.equal(out, alone)


@pytest.mark.usefixtures("_ordered_dots")
def test_values_that_cancel_show_the_order_of_the_sum() -> None:
    """Pairs of equal keys with opposite values: what is left is the rounding of the order."""
    case = AttentionCase.make([(1, 128)] * 3 + [(100, 128)], torch.float32, heads=Heads(2, 1))
    generator = torch.Generator().manual_seed(5)
    for row in case.rows:
        blocks = list(row.blocks)
        k, v = case.k_cache[blocks].flatten(0, 1), case.v_cache[blocks].flatten(0, 1)
        order = 64 + torch.randperm(64, generator=generator)
        v *= torch.exp2(torch.randint(-12, 12, (128, 1, 1), generator=generator))
        k[order], v[order] = k[:64].clone(), -v[:64]
        case.k_cache[blocks] = k.view_as(case.k_cache[blocks])
        case.v_cache[blocks] = v.view_as(case.v_cache[blocks])
    for index, out in enumerate(case.run(OPS)):
        assert torch.equal(out, case.only(index).run(OPS)[0])


def test_nothing_outside_a_row_is_read_into_it() -> None:
    """All that no query may see is NaN, in own blocks past the end and before every window."""
    case = AttentionCase.make([(2, 90), (1, 45)], torch.float32)
    expected = case.run(OPS, window=20)
    for row in case.rows:
        for p in range(row.kv_len - row.num_tokens + 1 - 20):
            case.k_cache[row.blocks[p // 16], p % 16] = torch.nan
    # values under a window's own mask have the weight zero, which NaN would survive: keys alone
    for out, same in zip(case.run(OPS, window=20), expected, strict=True):
        assert torch.equal(out, same)


def test_nan_of_its_own_is_seen() -> None:
    case = AttentionCase.make([(1, 90), (1, 45)], torch.float32)
    case.v_cache[case.rows[0].blocks[1], 3] = torch.nan
    spoilt, clean = case.run(OPS)
    assert spoilt.isnan().all()
    assert clean.isfinite().all()


# the plan


def rows_of(*lens: tuple[int, int]) -> list[AttentionRow]:
    rows, start = [], 0
    for num_tokens, kv_len in lens:
        rows.append(AttentionRow(start, num_tokens, kv_len, tuple(range(-(-kv_len // 16)))))
        start += num_tokens
    return rows


@pytest.mark.parametrize("window", [None, 1, 16, 100, 1000])
def test_no_query_has_more_splits_than_there_are_planes(window: int | None) -> None:
    for position in range(4000):
        num_keys = min(position + 1, window or position + 1)
        length = split_length(num_keys, 16)
        first = position + 1 - num_keys
        assert position // length - first // length < MAX_SPLITS


def test_rows_are_cut_where_the_split_length_changes() -> None:
    plan = HostPlan.build(rows_of((250, 250)), 16, 16)
    table = plan.table[4 : 4 + 2 * 6].reshape(2, 6)
    assert plan.num_rows == 2
    assert table[:, 1].tolist() == [240, 10]
    assert table[:, 2].tolist() == [0, 240]
    assert table[:, 4].tolist() == [16, 32]
    assert table[0, 3] == table[1, 3], "they share the row's block table"


def test_rows_with_parts_are_few() -> None:
    long = (MOST_PARTIAL_TOKENS, 900)
    plan = HostPlan.build(rows_of(*[long] * 20, (1, 9), (MOST_PARTIAL_TOKENS + 1, 1000)), 16, 16)
    assert plan.num_partial_rows == MAX_PARTIAL_ROWS
    assert len(plan.parts) == MAX_PARTIAL_ROWS // MOST_PARTIAL_TOKENS


def test_a_step_of_short_contexts_is_one_launch() -> None:
    plan = HostPlan.build(rows_of((1, 16), (3, 5)), 16, 16).on(torch.empty(0))
    assert plan.num_partial_rows == 0
    assert plan.num_splits(None) == 1


def test_the_most_splits_of_a_step() -> None:
    plan = HostPlan.build(rows_of((1, 100), (1, 33)), 16, 16).on(torch.empty(0))
    assert plan.num_splits(None) == 7
    assert plan.num_splits(20) == 3  # keys 80 to 99: three splits; keys 13 to 32: three


def test_a_plan_is_one_tensor() -> None:
    plan = plan_attention(rows_of((1, 100), (1, 33)), 16, 16, CPU)
    assert plan.table.dtype == torch.int32
    assert plan.table.dim() == 1
