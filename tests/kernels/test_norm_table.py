"""The norm table's rules are the slot table's: slot 0 stays the base, only what fits gets in."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import NormTable, Routing

from tests.support.kernel_cases import CPU


@pytest.fixture
def table() -> NormTable:
    return NormTable(4, 8, CPU)


def test_put_replace_and_clear(table: NormTable) -> None:
    first, second = torch.randn(8), torch.randn(8)
    assert table.is_empty
    table.put(2, first)
    table.put(2, second)
    table.put(3, first)
    assert [table[slot] for slot in range(len(table))] == [None, None, second, first]
    assert table.pointers(torch.float32).tolist() == [0, 0, second.data_ptr(), first.data_ptr()]
    table.clear(2)
    table.clear(2)
    assert not table.is_empty
    table.clear(3)
    assert table.is_empty
    assert table.pointers(torch.float32).count_nonzero() == 0


def test_what_does_not_fit_is_refused(table: NormTable) -> None:
    for slot, message in ((0, "base model"), (4, "1 to 3"), (-1, "1 to 3")):
        with pytest.raises(ValueError, match=message):
            table.put(slot, torch.ones(8))
        with pytest.raises(ValueError, match=message):
            table.clear(slot)
    for weight in (torch.ones(7), torch.ones(1, 8), torch.ones(16)[::2]):
        with pytest.raises(ValueError, match="must be \\[8\\]"):
            table.put(1, weight)
    assert table.is_empty
    table.put(1, torch.ones(8))
    with pytest.raises(ValueError, match="the kernels read"):
        table.pointers(torch.bfloat16)
    with pytest.raises(ValueError, match="slot 0"):
        NormTable(0, 8, CPU)


def test_rows_are_the_tokens_own_weights(table: NormTable) -> None:
    base, own = torch.randn(8, dtype=torch.bfloat16), torch.randn(8)
    table.put(2, own)
    assert table.rows(base, Routing.from_slots([0, 1, 3])) is base
    rows = table.rows(base, Routing.from_slots([0, 2, 1]))
    assert rows.dtype == base.dtype
    assert torch.equal(rows, torch.stack([base, own.to(base.dtype), base]))
