"""Every optional part of an adapter, alone and combined, and `adapt`, on every implementation."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import LowRank, Ops, Routing
from torch import Tensor

from tests.support.kernel_cases import CPU, DTYPES, GroupCase, assert_close
from tests.support.ordered_dot import order_dots
from tests.support.poison import poisoned_memory

SHAPES = [((24,), 60), ((40, 24), 64), ((24,), 127), ((37,), 128)]


@pytest.fixture(autouse=True)
def _ordered_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    order_dots(monkeypatch)


def shuffled(slots: list[int], repeats: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(len(slots))
    order = torch.randperm(len(slots) * repeats, generator=generator).tolist()
    return [slots[i % len(slots)] for i in order]


def some_of(ops: Ops, num_rows: int) -> range:
    """All rows, or every fifth through Triton's interpreter, which takes its time."""
    return range(0, num_rows, 5 if ops.name == "gpu" else 1)


def assert_rows_close(actual: Tensor, expected: Tensor) -> None:
    """Each row by itself where rounding leaves room for it, lest a large row hide a small one."""
    if actual.dtype != torch.float32:
        return assert_close(actual, expected)
    for row, wanted in zip(actual, expected, strict=True):
        assert_close(row, wanted)


def adapt(ops: Ops, case: GroupCase, x: Tensor, y: Tensor, slots: list[int]) -> Tensor:
    return ops.adapt(x, y, case.tables[0], Routing.from_slots(slots))


@pytest.mark.parametrize(("outs", "k"), SHAPES)
def test_every_part_does_what_the_formula_says(ops: Ops, outs: tuple[int, ...], k: int) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.of_families(outs, k, ops.adapter_dtype(dtype))
        slots = shuffled(case.all_slots)
        x = case.inputs(len(slots), dtype)
        with poisoned_memory():
            actual = case.run(ops, x, slots)
        for y, expected in zip(actual, case.expected(x, slots), strict=True):
            assert y.dtype == dtype
            assert_rows_close(y, expected)


@pytest.mark.parametrize(("outs", "k"), SHAPES)
def test_base_rows_have_the_bits_of_a_batch_of_base_rows(
    ops: Ops, outs: tuple[int, ...], k: int
) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.of_families(outs, k, ops.adapter_dtype(dtype))
        slots = shuffled([*case.all_slots, 0, 0, 0])
        x = case.inputs(len(slots), dtype)
        mixed, alone = case.run(ops, x, slots), case.run(ops, x, [0] * len(slots))
        base = [t for t, slot in enumerate(slots) if slot == 0]
        for j, y in enumerate(mixed):
            without = [t for t, slot in enumerate(slots) if case.tables[j][slot] is None]
            assert set(base) <= set(without)
            assert torch.equal(y[without], alone[j][without])


@pytest.mark.parametrize(("outs", "k"), SHAPES)
def test_a_row_alone_equals_the_row_in_a_batch(ops: Ops, outs: tuple[int, ...], k: int) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.of_families(outs, k, ops.adapter_dtype(dtype))
        slots = shuffled(case.all_slots, repeats=2 if ops.name == "gpu" else 9)
        x = case.inputs(len(slots), dtype)
        mixed = case.run(ops, x, slots)
        order = sorted(range(len(slots)), key=lambda t: slots[t])
        gathered = case.run(ops, x[order], [slots[t] for t in order])
        assert all(torch.equal(y[order], z) for y, z in zip(mixed, gathered, strict=True))
        for t in some_of(ops, 2 * len(case.all_slots)):
            for y, alone in zip(mixed, case.run(ops, x[t : t + 1], [slots[t]]), strict=True):
                assert torch.equal(y[t], alone[0])


def test_adapters_that_no_row_runs_on_are_never_read(ops: Ops) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.of_families((24,), 60, ops.adapter_dtype(dtype))
        slots = [*case.all_slots[::2], 0]
        x = case.inputs(len(slots), dtype)
        y = case.inputs(len(slots), dtype)[:, :24]
        clean = case.run(ops, x, slots)[0], adapt_without_in_gain(ops, case, x, y, slots)
        case.spoil_unused_slots(slots)
        again = case.run(ops, x, slots)[0], adapt_without_in_gain(ops, case, x, y, slots)
        for a, b in zip(clean, again, strict=True):
            assert a.isfinite().all()
            assert torch.equal(a, b)


def adapt_without_in_gain(
    ops: Ops, case: GroupCase, x: Tensor, y: Tensor, slots: list[int]
) -> Tensor:
    scaling = case.tables[0].in_gain_slots
    return adapt(ops, case, x, y, [0 if slot in scaling else slot for slot in slots])


def test_a_row_with_nan_stays_alone(ops: Ops) -> None:
    case = GroupCase.of_families((24,), 60, torch.float32)
    slots = shuffled(case.all_slots, repeats=2)
    x = case.inputs(len(slots), torch.float32)
    clean = case.run(ops, x, slots)[0]
    x[::4], x[2::4] = torch.nan, torch.inf
    assert torch.equal(case.run(ops, x, slots)[0][1::2], clean[1::2])


def test_a_member_that_is_not_alone_takes_no_in_gain(ops: Ops) -> None:
    case = GroupCase.of_families((24, 40), 64, torch.float32)
    scaling = LowRank(torch.zeros(0, 64), torch.zeros(0, 40), in_gain=torch.ones(64))
    case.tables[1].put(2, scaling)
    x = case.inputs(3, torch.float32)
    with pytest.raises(ValueError, match="in_gain"):
        case.run(ops, x, [0, 2, 1])
    assert len(case.run(ops, x, [0, 3, 1])) == 2  # the slot that has one is not a token's


@pytest.mark.parametrize(("n", "k"), [(24, 60), (64, 64), (127, 33), (300, 16)])
def test_adapt_is_the_adapters_half_alone(ops: Ops, n: int, k: int) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.of_families((n, 8), k, ops.adapter_dtype(dtype))
        slots = shuffled(case.all_slots, repeats=2)
        x = case.inputs(len(slots), dtype)
        wide = torch.randn(len(slots), n + 5, generator=torch.Generator().manual_seed(1)).to(dtype)
        y = wide[:, 3 : n + 3]  # with a stride of its own, as adapted_linear returns them
        before = wide.clone()
        with poisoned_memory():
            out = adapt(ops, case, x, y, slots)
        assert torch.equal(wide, before)
        assert out.dtype == dtype
        assert_rows_close(out, case.adapted(x, y, slots))
        untouched = [t for t, slot in enumerate(slots) if case.tables[0][slot] is None]
        assert torch.equal(out[untouched], y[untouched])
        for t in some_of(ops, len(slots)):
            alone = adapt(ops, case, x[t : t + 1], y[t : t + 1], [slots[t]])
            assert torch.equal(out[t], alone[0])


def test_adapt_may_be_fed_what_it_adapts(ops: Ops) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.of_families((60, 8), 60, ops.adapter_dtype(dtype))
        slots = shuffled(case.all_slots)
        y = case.inputs(len(slots), dtype)
        out = adapt(ops, case, y, y, slots)
        assert torch.equal(out, adapt(ops, case, y.clone(), y.clone(), slots))
        assert_rows_close(out, case.adapted(y, y, slots))


def test_adapt_without_an_adapter_is_a_copy(ops: Ops) -> None:
    case = GroupCase.of_families((24,), 60, torch.float32)
    case.tables[0].clear(4)
    x, y = case.inputs(3, torch.float32), torch.randn(3, 24)
    for slots in ([0, 0, 0], [0, 4, 4]):
        out = adapt(ops, case, x, y, slots)
        assert torch.equal(out, y)
        assert out.data_ptr() != y.data_ptr()


def test_adapt_takes_no_in_gain(ops: Ops) -> None:
    case = GroupCase.of_families((24,), 60, torch.float32)
    x, y = case.inputs(2, torch.float32), torch.randn(2, 24)
    for slot in case.tables[0].in_gain_slots:
        with pytest.raises(ValueError, match="in_gain"):
            adapt(ops, case, x, y, [0, slot])


def test_a_slot_without_tensors_of_rank_0_changes_nothing(ops: Ops) -> None:
    case = GroupCase.make((24,), 60, torch.float32)
    case.tables[0].put(3, LowRank(torch.zeros(0, 60), torch.zeros(0, 24)))
    x = case.inputs(4, torch.float32)
    group = ops.pack(case.weights, case.biases, torch.float32, CPU)
    (y,) = ops.adapted_linear(x, group, case.tables, Routing.from_slots([3, 0, 3, 3]))
    assert torch.equal(y, case.run(ops, x, [0] * 4)[0])


def test_the_number_of_threads_changes_nothing(native: Ops) -> None:
    before = torch.get_num_threads()
    try:
        for dtype in (torch.float32, torch.bfloat16):
            case = GroupCase.of_families((127,), 64, dtype)
            slots = shuffled(case.all_slots, repeats=2)
            x = case.inputs(len(slots), dtype)
            results = []
            for num_threads in (1, 2, 3):
                torch.set_num_threads(num_threads)
                results.append(case.run(native, x, slots)[0])
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(before)
