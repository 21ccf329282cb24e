"""The contract of adapted_linear, on every implementation.

The gpu implementation runs its Triton kernels on CPU tensors through the interpreter, which is
right in float32 and float16 only, and slow: it gets the smaller shapes.
"""

from __future__ import annotations

import pytest
import torch
from motet_kernels import LowRank, Nf4Weight, Ops, Routing, Segment, SlotTable

from tests.support.kernel_cases import (
    CPU,
    DTYPES,
    POPULARITIES,
    GroupCase,
    assert_close,
    slots_of,
)
from tests.support.poison import poisoned_memory

SHAPES = [((24,), 60), ((60, 127, 24), 64), ((64, 24), 127), ((576,), 24), ((24, 127), 576)]


def check(ops: Ops, outs: tuple[int, ...], k: int, num_tokens: int, slots: list[int]) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.make(outs, k, ops.adapter_dtype(dtype))
        x = case.inputs(num_tokens, dtype)
        with poisoned_memory():
            actual = case.run(ops, x, slots)
        for y, expected in zip(actual, case.expected(x, slots), strict=True):
            assert y.dtype == dtype
            assert y.shape == expected.shape
            assert_close(y, expected)


@pytest.mark.parametrize(("outs", "k"), SHAPES)
def test_shapes(ops: Ops, outs: tuple[int, ...], k: int) -> None:
    check(ops, outs, k, 7, slots_of("random", 7))


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7, 63, 133])
@pytest.mark.parametrize("popularity", POPULARITIES)
def test_popularity(ops: Ops, popularity: str, num_tokens: int) -> None:
    if ops.name == "gpu" and num_tokens > 63:
        pytest.skip("too many programs for the interpreter; 63 tokens already need several tiles")
    check(ops, (24, 60), 60, num_tokens, slots_of(popularity, num_tokens))


def test_long_reduction_is_split_and_added(ops: Ops) -> None:
    check(ops, (24,), 2500, 3, [4, 0, 1])


def test_slot_in_segments_apart_and_neighbours_on_one_slot(ops: Ops) -> None:
    case = GroupCase.make((24,), 60, torch.float32)
    x = case.inputs(6, torch.float32)
    segments = (Segment(4, 0, 2), Segment(1, 2, 3), Segment(4, 3, 4), Segment(4, 4, 6))
    group = ops.pack(case.weights, case.biases, torch.float32, CPU)
    (y,) = ops.adapted_linear(x, group, case.tables, Routing(segments))
    assert_close(y, case.expected(x, [4, 4, 1, 4, 4, 4])[0])


def test_base_rows_have_the_bits_of_a_batch_of_base_rows(ops: Ops) -> None:
    for dtype in DTYPES[ops.name]:
        case = GroupCase.make((24, 60), 60, ops.adapter_dtype(dtype))
        x = case.inputs(9, dtype)
        slots = [0, 4, 4, 0, 2, 5, 0, 0, 1]
        base = [t for t, slot in enumerate(slots) if slot == 0]
        mixed = case.run(ops, x, slots)
        alone = case.run(ops, x, [0] * 9)
        for y, y_base in zip(mixed, alone, strict=True):
            assert torch.equal(y[base], y_base[base])


def test_replaced_and_cleared_slots(ops: Ops) -> None:
    case = GroupCase.make((24,), 60, torch.float32)
    other = GroupCase.make((24,), 60, torch.float32, biased=False)
    x = case.inputs(4, torch.float32)
    slots = [4, 4, 0, 6]
    before = case.run(ops, x, slots)[0]
    replacement = other.tables[0][2]
    assert replacement is not None
    case.tables[0].put(4, replacement)
    assert_close(case.run(ops, x, slots)[0], case.expected(x, slots)[0])
    case.tables[0].clear(4)
    after = case.run(ops, x, slots)[0]
    assert torch.equal(after[:2], case.run(ops, x, [0] * 4)[0][:2])
    assert torch.equal(after[2:], before[2:])


def test_group_of_unlike_weights_is_refused(ops: Ops) -> None:
    weights = [Nf4Weight.quantize(torch.randn(4, k)) for k in (8, 12)]
    with pytest.raises(ValueError, match="share their input size"):
        ops.pack(weights, [None, None], torch.float32, CPU)
    with pytest.raises(ValueError, match="bias or None for each"):
        ops.pack(weights[:1], [], torch.float32, CPU)
    with pytest.raises(ValueError, match="must be \\[N\\]"):
        ops.pack(weights[:1], [torch.zeros(5)], torch.float32, CPU)


def test_gpu_refuses_adapters_of_another_dtype(implementations: dict[str, Ops]) -> None:
    table = SlotTable(2, 16, 16, CPU)
    table.put(1, LowRank(torch.randn(2, 16), torch.randn(2, 16), None, None))
    gpu = implementations["gpu"]
    group = gpu.pack([Nf4Weight.quantize(torch.randn(16, 16))], [None], torch.float16, CPU)
    with pytest.raises(ValueError, match="adapter_dtype"):
        gpu.adapted_linear(torch.ones(1, 16).half(), group, [table], Routing.from_slots([1]))
