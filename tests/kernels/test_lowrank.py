"""The slot table's rules: slot 0 stays the base, and nothing that does not fit gets in."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import Core, LowRank, SlotTable
from motet_kernels.lowrank import POINTER_COLUMNS

from tests.support.kernel_cases import CPU

K, N = 12, 20


def lowrank(rank: int = 3) -> LowRank:
    return LowRank(torch.randn(rank, K), torch.randn(rank, N), torch.randn(N), None)


@pytest.fixture
def table() -> SlotTable:
    return SlotTable(3, K, N, CPU)


def test_put_replace_and_clear(table: SlotTable) -> None:
    first, second = lowrank(3), lowrank(5)
    assert [table[slot] for slot in range(len(table))] == [None, None, None]
    table.put(2, first)
    assert table[2] is first
    table.put(2, second)
    assert table[2] is second
    assert table.max_rank == 5
    table.clear(2)
    assert table[2] is None
    assert table.max_rank == 0


@pytest.mark.parametrize(("slot", "message"), [(0, "base model"), (3, "1 to 2"), (-1, "1 to 2")])
def test_slots_that_take_no_adapter(table: SlotTable, slot: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table.put(slot, lowrank())
    with pytest.raises(ValueError, match=message):
        table.clear(slot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.randn(3, K + 1)}, "a must have shape"),
        ({"bt": torch.randn(4, N)}, "bt must have shape"),
        ({"bt": torch.randn(N, 3)}, "bt must have shape"),
        ({"gain": torch.randn(1, N)}, "gain must have shape"),
        ({"bias": torch.randn(K)}, "bias must have shape"),
        ({"gain": torch.randn(N).half()}, "contiguous and of torch.float32"),
        ({"a": torch.randn(K, 3).T}, "contiguous"),
        ({"a": torch.randn(0, K)}, "bt must have shape"),
        ({"in_gain": torch.randn(N)}, "in_gain must have shape"),
        ({"core": Core(torch.randn(3, 2), torch.zeros(3, 2))}, "contiguous and of torch.int32"),
        ({"core": Core(torch.randn(2, 2), torch.zeros(2, 2).int())}, "core_values must have"),
        ({"core": Core(torch.randn(3, 1), torch.tensor([[0], [3], [1]]).int())}, "must be 0 to 2"),
        ({"core": Core(torch.randn(3, 1), torch.tensor([[0], [-1], [1]]).int())}, "must be 0 to"),
        ({"core": Core(torch.randn(3, 0), torch.zeros(3, 0).int())}, "one entry a row"),
        ({"activation": "softmax"}, "is none of"),
    ],
)
def test_tensors_that_do_not_fit(
    table: SlotTable, change: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        table.put(1, lowrank()._replace(**change))
    assert table[1] is None


def test_slots_with_an_in_gain_are_known(table: SlotTable) -> None:
    assert not table.in_gain_slots
    scaling = lowrank()._replace(in_gain=torch.randn(K))
    table.put(1, scaling)
    table.put(2, scaling)
    assert table.in_gain_slots == {1, 2}
    table.put(1, lowrank())
    table.clear(2)
    assert not table.in_gain_slots


def test_a_table_without_a_base_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="slot 0"):
        SlotTable(0, K, N, CPU)


def test_pointers_follow_the_slots(table: SlotTable) -> None:
    adapter = lowrank(3)
    assert adapter.gain is not None
    table.put(1, adapter)
    addresses = [adapter.a.data_ptr(), adapter.bt.data_ptr(), adapter.gain.data_ptr(), 0, 3]
    nothing = [0] * POINTER_COLUMNS
    row = addresses + [0] * (POINTER_COLUMNS - len(addresses))
    assert table.pointers(torch.float32).tolist() == [nothing, row, nothing]
    core = Core(torch.randn(3, 2), torch.zeros(3, 2, dtype=torch.int32))
    parts = {"in_gain": torch.randn(K), "inner_bias": torch.randn(3), "delta_gain": torch.randn(N)}
    table.put(1, adapter._replace(core=core, activation="relu", **parts))
    row[5:] = [
        *(parts["in_gain"].data_ptr(), core.values.data_ptr(), core.columns.data_ptr(), 2),
        *(parts["inner_bias"].data_ptr(), 1, parts["delta_gain"].data_ptr()),
    ]
    assert table.pointers(torch.float32).tolist() == [nothing, row, nothing]
    table.clear(1)
    assert table.pointers(torch.float32).count_nonzero() == 0
