"""Decoder layers as one operation: right, and every row alone to the bit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from motet_kernels import (
    AdaptedGroup,
    AttentionRow,
    CannotFuse,
    DecoderLayer,
    LayerOps,
    LayerStep,
    LowRank,
    NormTable,
    Ops,
    ReferenceOps,
    Routing,
    SlotTable,
    TimedLayerOps,
)
from motet_kernels.cpu.native_abi import LayersCall
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.cpu.rounding_ops import RoundingCpuOps

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
# prompts longer than a thread's part of them, and a token that costs more than most others together
MANY_ROWS = (
    LayerRow(2, 37, 3, seed=1),
    *(LayerRow(slot, 1, 5 * slot, seed=slot) for slot in (0, 0, 3, 5, 5)),
    LayerRow(5, 26, 0, seed=7),
    LayerRow(6, 1, 1500, seed=8),
)
ADAPTED = {"head_norms": True, "adapted_norms": True, "adapted_output": True}
VARIANTS = (
    {},
    {"head_norms": True, "biased": True},
    {**ADAPTED, "families": True},
    {"window": 5},
    {"softcap": 3.0},
    {"sizes": LayerSizes(64, 192, 6, 2, 64)},
    {"sizes": LayerSizes(36, 68, 3, 1, 20)},
    {"adapted_norms": True},
    {"adapted_output": True},
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
    if isinstance(native, RoundingCpuOps):
        tolerance *= 2  # inputs are rounded to 8 bits four times, one after the other
    for ours, wanted in zip(actual, expected, strict=True):
        difference = (ours.double() - wanted.double()).abs().max()
        assert difference <= tolerance * wanted.double().abs().max()


def test_every_slot_of_a_layer_is_its_definition(native: Ops) -> None:
    """Every family on linears and on the output; in_gain before the linears that are alone."""
    case = LayerCase.make(torch.float32, **ADAPTED, families=True)  # type: ignore[arg-type]
    shared, alone = (case.groups[i].all_slots for i in (0, 1))
    assert len(alone) > len(shared)
    rows = [LayerRow(slot, 2, 3, seed=slot) for slot in shared]
    expected = case.run(ReferenceOps(), rows)
    for ours, wanted in zip(case.run(native, rows), expected, strict=True):
        difference = (ours.double() - wanted.double()).abs().max()
        assert difference <= 2e-5 * wanted.double().abs().max()


def test_base_rows_keep_their_bits_beside_any_adapter(native: Ops) -> None:
    case = LayerCase.make(BF16, **ADAPTED, families=True)  # type: ignore[arg-type]
    rows = [LayerRow(0, 3, 2, seed=1), *ROWS, LayerRow(0, 1, 9, seed=2)]
    mixed = case.run(native, rows)
    base = [i for i, row in enumerate(rows) if row.slot == 0]
    alone = case.run(native, [rows[i] for i in base])
    assert all(torch.equal(mixed[i], y) for i, y in zip(base, alone, strict=True))


def test_a_slot_without_an_entry_is_as_without_the_tables(native: Ops) -> None:
    """Slot 3 has nothing on the output and no norms, 6 something on the output, 2 both."""
    rows = [LayerRow(slot, 2, 5, seed=slot) for slot in (3, 6, 2)]
    case = LayerCase.make(BF16, head_norms=True, adapted_norms=True, adapted_output=True)
    norms = [replace(norm, table=None) for norm in (*case.norms, *case.head_norms) if norm]
    bare = replace(case, norms=tuple(norms[:2]), head_norms=tuple(norms[2:]), output_adapters=None)
    with_tables, without = case.run(native, rows), bare.run(native, rows)
    same = [torch.equal(a, b) for a, b in zip(with_tables, without, strict=True)]
    assert same == [True, False, False]
    assert case.output_adapters is not None
    case.output_adapters.clear(6)
    assert torch.equal(case.run(native, rows)[1], without[1])
    only_head_norms = replace(bare, head_norms=case.head_norms)
    assert not torch.equal(only_head_norms.run(native, rows)[2], without[2])
    only_norms = replace(bare, norms=case.norms)
    assert not torch.equal(only_norms.run(native, rows)[2], without[2])


def test_tables_may_change_after_the_layers_were_fused(native: Ops) -> None:
    assert isinstance(native, LayerOps)
    case = LayerCase.make(BF16, **ADAPTED)  # type: ignore[arg-type]
    fused, x = case.fuse(native), torch.ones(1, case.sizes.hidden, dtype=BF16)
    step, table = one_token(native, case, slot=3), case.norms[0].table
    assert table is not None
    assert case.output_adapters is not None
    clean = native.decoder_layers(x, fused, step)
    table.put(3, torch.zeros(case.sizes.hidden, dtype=BF16))
    normed = native.decoder_layers(x, fused, step)
    assert not torch.equal(normed, clean)
    table.clear(3)
    assert torch.equal(native.decoder_layers(x, fused, step), clean)
    nothing = torch.zeros(0, case.sizes.hidden, dtype=BF16)
    offset = torch.full((case.sizes.hidden,), 64.0, dtype=BF16)
    case.output_adapters.put(3, LowRank(nothing, nothing, bias=offset))
    shifted = native.decoder_layers(x, fused, step)
    assert torch.equal(shifted, (clean.float() + 64).to(BF16))


def test_an_in_gain_where_the_input_is_shared_is_refused(ops: Ops) -> None:
    if not isinstance(ops, LayerOps):
        pytest.skip("runs no whole layers")
    case = LayerCase.make(torch.float32, **ADAPTED)  # type: ignore[arg-type]
    fused, x = case.fuse(ops), torch.ones(1, case.sizes.hidden)
    assert case.output_adapters is not None
    step = one_token(ops, case, slot=3)
    ops.decoder_layers(x, fused, step)
    for table in (case.groups[0].tables[1], case.groups[2].tables[0], case.output_adapters):
        nothing = LowRank(torch.zeros(0, table.in_features), torch.zeros(0, table.out_features))
        before = table[3]
        table.put(3, nothing._replace(in_gain=torch.ones(table.in_features)))
        with pytest.raises(ValueError, match="in_gain"):
            ops.decoder_layers(x, fused, step)
        table.put(3, before or nothing)
    ops.decoder_layers(x, fused, step)


@pytest.mark.parametrize("variant", VARIANTS[:3])
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
@pytest.mark.parametrize("variant", VARIANTS[:3])
def test_the_number_of_threads_changes_nothing(native: Ops, variant: dict[str, object]) -> None:
    case = LayerCase.make(BF16, **variant)  # type: ignore[arg-type]
    results = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        results.append(case.run(native, ROWS))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("variant", VARIANTS[1:4])
def test_threads_with_tokens_of_their_own_change_nothing(
    native: Ops, variant: dict[str, object]
) -> None:
    """With so many tokens each thread takes some of its own, and some rows lie in two parts."""
    case = LayerCase.make(BF16, **variant)  # type: ignore[arg-type]
    torch.set_num_threads(1)
    alone = case.run(native, MANY_ROWS)
    assert torch.equal(case.run(native, MANY_ROWS[:1])[0], alone[0])
    for num_threads in (2, 3, 4):
        torch.set_num_threads(num_threads)
        for token_rows in (False, True):
            with poisoned_memory():
                shared = case.run(native, MANY_ROWS, token_rows=token_rows)
            assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("variant", VARIANTS[:3])
def test_slots_that_no_row_runs_on_are_never_read(native: Ops, variant: dict[str, object]) -> None:
    case = LayerCase.make(BF16, **variant)  # type: ignore[arg-type]
    rows = [row for row in ROWS if row.slot in (0, 5)]
    clean = case.run(native, rows)
    for group in case.groups:
        group.spoil_unused_slots([0, 5])
    for norm in (*case.norms, *case.head_norms):
        spoiled = norm.table[2] if norm and norm.table else None
        if spoiled is not None:
            spoiled.fill_(torch.nan)
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
    table = NormTable(3, case.sizes.hidden + 1, CPU)
    with pytest.raises(ValueError, match="norm table"):
        ops.fuse([replace(layer, post_norm=replace(layer.post_norm, table=table))])
    on_output = SlotTable(3, case.sizes.hidden, case.sizes.hidden + 1, CPU)
    with pytest.raises(ValueError, match="layer's output"):
        ops.fuse([replace(layer, output_adapters=on_output)])


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
