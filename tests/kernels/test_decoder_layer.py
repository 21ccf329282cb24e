"""Decoder layers as one operation: right, and every row alone to the bit."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from motet_kernels import (
    AdaptedGroup,
    AttentionRow,
    CannotFuse,
    DecoderLayer,
    LayerOps,
    LayerStep,
    Ops,
    ReferenceOps,
    Routing,
    TimedLayerOps,
)
from motet_kernels.cpu.native_abi import LayersCall
from motet_kernels.cpu.native_ops import NativeCpuOps

from tests.support.kernel_cases import CPU, GroupCase
from tests.support.layer_case import BLOCK_SIZE, LayerCase, LayerRow, LayerSizes
from tests.support.poison import poisoned_memory

BF16 = torch.bfloat16

# decode rows and prompt chunks, on base and adapters, as a mixed step has them
ROWS = (
    LayerRow(0, 1, 0, seed=1),
    LayerRow(0, 5, 6, seed=2),
    LayerRow(2, 1, 13, seed=3),
    LayerRow(5, 1, 40, seed=4),
    LayerRow(5, 9, 0, seed=5),
    LayerRow(3, 1, 2, seed=6),
)
VARIANTS = (
    {},
    {"head_norms": True, "biased": True},
    {"window": 5},
    {"softcap": 3.0},
    {"sizes": LayerSizes(64, 192, 6, 2, 64)},
    {"sizes": LayerSizes(36, 68, 3, 1, 20)},
)


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (BF16, 3e-2)])
def test_the_layer_is_its_definition(
    native: Ops, variant: dict[str, object], dtype: torch.dtype, tolerance: float
) -> None:
    case = LayerCase.make(dtype, **variant)  # type: ignore[arg-type]
    expected = LayerCase.run(case, ReferenceOps(), ROWS)
    with poisoned_memory():
        actual = case.run(native, ROWS)
    for ours, wanted in zip(actual, expected, strict=True):
        difference = (ours.double() - wanted.double()).abs().max()
        assert difference <= tolerance * wanted.double().abs().max()


@pytest.mark.parametrize("variant", VARIANTS[:2])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_row_alone_equals_the_row_in_a_step(
    native: Ops, variant: dict[str, object], dtype: torch.dtype
) -> None:
    case = LayerCase.make(dtype, **variant)  # type: ignore[arg-type]
    together = case.run(native, ROWS)
    for row, y in zip(ROWS, together, strict=True):
        assert torch.equal(case.run(native, [row])[0], y)
    backwards = case.run(native, ROWS[::-1])
    assert all(torch.equal(a, b) for a, b in zip(together, backwards[::-1], strict=True))


@pytest.mark.usefixtures("_threads")
def test_the_number_of_threads_changes_nothing(native: Ops) -> None:
    case = LayerCase.make(BF16)
    results = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        results.append(case.run(native, ROWS))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_slots_that_no_row_runs_on_are_never_read(native: Ops) -> None:
    case = LayerCase.make(BF16)
    rows = [row for row in ROWS if row.slot in (0, 5)]
    clean = case.run(native, rows)
    for group in case.groups:
        group.spoil_unused_slots([0, 5])
    again = case.run(native, rows)
    assert all(y.isfinite().all() for y in clean)
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))


def test_a_row_that_is_nan_stays_alone(native: Ops) -> None:
    case = LayerCase.make(torch.float32)
    clean = case.run(native, ROWS)
    broken = LayerRow(4, 2, 3, seed=9)
    a = case.groups[0].tables[0][4]
    assert a is not None
    a.a.fill_(torch.nan)
    together = case.run(native, [*ROWS, broken])
    assert together[-1].isnan().all()
    assert all(torch.equal(x, y) for x, y in zip(clean, together, strict=False))


def test_a_layer_without_packed_weights_is_refused(implementations: dict[str, Ops]) -> None:
    native = next(ops for ops in implementations.values() if isinstance(ops, NativeCpuOps))
    sizes = LayerSizes(hidden=66, inner=130)  # no multiples of 4
    case = LayerCase.make(torch.float32, sizes=sizes)
    with pytest.raises(CannotFuse, match="packed"):
        case.fuse(native)


def test_parts_that_do_not_fit_are_refused(ops: Ops) -> None:
    if not isinstance(ops, LayerOps):
        pytest.skip("runs no whole layers")
    case = LayerCase.make(torch.float32)
    layer = case.fuse(ops).layers[0]
    group = GroupCase.make((64,), 64, torch.float32)
    wrong = AdaptedGroup(ops.pack(group.weights, group.biases, torch.float32, CPU), group.tables)
    with pytest.raises(ValueError, match="expected"):
        ops.fuse([DecoderLayer(**{**vars(layer), "output": wrong})])


def test_a_place_outside_the_cache_is_refused(native: Ops) -> None:
    case = LayerCase.make(torch.float32)
    assert isinstance(native, NativeCpuOps)
    fused = case.fuse(native)
    plan = native.plan_attention([AttentionRow(0, 1, 1, (0,))], 4, CPU)
    ones = torch.ones(1, case.sizes.head_size)
    x = torch.zeros(1, case.sizes.hidden)
    for place in (-1, 8):
        step = LayerStep(Routing.from_slots([0]), plan, torch.tensor([place]), ones, ones)
        with pytest.raises(IndexError, match="outside the cache"):
            native.decoder_layers(x, fused, step)
    step = LayerStep(Routing.from_slots([0]), plan, torch.tensor([0]), ones, ones.double())
    with pytest.raises(ValueError, match="sin must be"):
        native.decoder_layers(x, fused, step)


def test_the_stages_of_a_timed_call_add_up_to_no_more_than_the_call(native: Ops) -> None:
    assert isinstance(native, LayerOps)
    assert isinstance(native, TimedLayerOps)
    case = LayerCase.make(BF16, sizes=LayerSizes(256, 512, 4, 2, 64))
    fused = case.fuse(native)
    x, step = torch.ones(1, 256, dtype=BF16), one_token(native, case, slot=5)
    expected = native.decoder_layers(x, fused, step)
    before = time.perf_counter()
    y, seconds = native.timed_decoder_layers(x, fused, step)
    elapsed = time.perf_counter() - before
    assert torch.equal(y, expected)
    assert all(stage > 0 for stage in vars(seconds).values())
    assert sum(vars(seconds).values()) <= elapsed


def test_a_timed_call_of_base_rows_has_nothing_for_adapters(native: Ops) -> None:
    assert isinstance(native, TimedLayerOps)
    case = LayerCase.make(BF16)
    x, step = torch.ones(1, case.sizes.hidden, dtype=BF16), one_token(native, case, slot=0)
    _, seconds = native.timed_decoder_layers(x, case.fuse(native), step)
    assert seconds.adapters == 0
    assert seconds.linears > 0


def test_no_stage_is_timed_unless_that_is_asked_for(
    native: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(native, NativeCpuOps)
    case = LayerCase.make(BF16)
    x, step = torch.ones(1, case.sizes.hidden, dtype=BF16), one_token(native, case, slot=5)
    fused, layers, asked = case.fuse(native), native._library.layers, []

    def record(address: int) -> int:
        asked.append(LayersCall.from_address(address).seconds is not None)
        return layers(address)

    monkeypatch.setattr(native._library, "layers", record)
    native.decoder_layers(x, fused, step)
    native.timed_decoder_layers(x, fused, step)
    native.decoder_layers(x, fused, step)
    assert asked == [False, True, False]


def one_token(ops: Ops, case: LayerCase, slot: int) -> LayerStep:
    """The first token of a sequence."""
    plan = ops.plan_attention([AttentionRow(0, 1, 1, (0,))], BLOCK_SIZE, CPU)
    ones = torch.ones(1, case.sizes.head_size, dtype=case.dtype)
    return LayerStep(Routing.from_slots([slot]), plan, torch.tensor([0]), ones, ones)
