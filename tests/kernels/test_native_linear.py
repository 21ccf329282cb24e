"""What the native linears promise beyond the shared contract: ragged shapes, threads, packing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from motet_kernels import Nf4Weight, Ops, Routing, SlotTable
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.ops import PackedGroup
from torch import Tensor
from torch.nn import functional as F

from tests.support.cancelling import cancelling_nf4, cancelling_product, parts_that_differ
from tests.support.kernel_cases import CPU, RANKS, GroupCase, assert_close, slots_of
from tests.support.poison import poisoned_memory

NUM_TOKENS = (1, 2, 3, 7, 16, 17, 63, 64, 65, 133)
BF16 = torch.bfloat16


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("k", [64, 576, 1536, 100])
@pytest.mark.parametrize("outs", [(1,), (24, 127), (576,)])
def test_ragged_shapes_are_right_and_rows_are_alone(
    native: Ops, outs: tuple[int, ...], k: int
) -> None:
    case = GroupCase.make(outs, k, BF16)
    group = native.pack(case.weights, case.biases, BF16, CPU)
    x, slots = case.inputs(133, BF16), slots_of("random", 133)
    expected = case.expected(x, slots)
    rows = [
        native.adapted_linear(
            x[t : t + 1], group, case.tables, Routing.from_slots(slots[t : t + 1])
        )
        for t in range(133)
    ]
    for num_tokens in NUM_TOKENS:
        routing = Routing.from_slots(slots[:num_tokens])
        with poisoned_memory():
            actual = native.adapted_linear(x[:num_tokens], group, case.tables, routing)
        for j, y in enumerate(actual):
            assert torch.equal(y, torch.cat([row[j] for row in rows[:num_tokens]]))
    for y, wanted in zip(actual, expected, strict=True):
        assert_close(y, wanted)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_the_number_of_threads_changes_nothing(native: Ops, dtype: torch.dtype) -> None:
    case = GroupCase.make((96, 24, 127), 576, dtype)
    group = native.pack(case.weights, case.biases, dtype, CPU)
    for num_tokens in (1, 3, 40):
        x = case.inputs(num_tokens, dtype)
        routing = Routing.from_slots(slots_of("random", num_tokens))
        results = []
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(native.adapted_linear(x, group, case.tables, routing))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def base_product(ops: Ops, weight: Nf4Weight, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    table = SlotTable(2, weight.shape[1], weight.shape[0], CPU)
    group = ops.pack([weight], [None], dtype, CPU)

    def product(x: Tensor) -> Tensor:
        (y,) = ops.adapted_linear(x, group, [table], Routing.from_slots([0] * len(x)))
        return y

    return product


@pytest.mark.parametrize("k", [64, 576, 1536, 100])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_cancelling_sums_show_the_order_of_the_product(
    native: Ops, dtype: torch.dtype, k: int
) -> None:
    """The exact result is zero, so that any other order of the sum shows in the bits."""
    x, weight = cancelling_nf4(133, 96, k, dtype)
    assert parts_that_differ(base_product(native, weight, dtype), x, NUM_TOKENS) == []


def adapter_product(ops: Ops, rank: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """One whose A cancels `cancelling_product`'s inputs, and whose B makes much of what is left."""
    case = GroupCase.make((60,), 576, dtype, biased=False)
    _, a = cancelling_product(40, rank, 576, dtype)
    lowrank = case.tables[0][4]
    assert lowrank is not None
    bt = torch.randn(rank, 60, generator=torch.Generator().manual_seed(2)) * 1e6
    case.tables[0].put(4, lowrank._replace(a=a, bt=bt.to(dtype)))
    return lambda x: case.run(ops, x, [4] * len(x))[0]


@pytest.mark.parametrize("rank", [1, 3, 16, 96])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_cancelling_sums_show_the_order_of_the_adapter(
    native: Ops, rank: int, dtype: torch.dtype
) -> None:
    x, _ = cancelling_product(40, rank, 576, dtype)
    product = adapter_product(native, rank, dtype)
    assert parts_that_differ(product, x, (1, 2, 3, 4, 5, 7, 9, 16, 31)) == []


@pytest.mark.parametrize("k", [64, 576, 1536, 100])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_cancelling_sums_show_the_order_of_the_dense_product(
    native: Ops, dtype: torch.dtype, k: int
) -> None:
    x, weight = cancelling_product(133, 96, k, dtype)

    def product(x: Tensor) -> Tensor:
        return native.dense_linear(x, weight, None)

    assert parts_that_differ(product, x, NUM_TOKENS) == []


class InHalves(NativeCpuOps):
    """Computes an even number of rows in two halves of K, which other numbers are summed in one."""

    def adapted_linear(
        self, x: Tensor, group: PackedGroup, tables: Sequence[SlotTable], routing: Routing
    ) -> tuple[Tensor, ...]:
        if len(x) % 2:
            return super().adapted_linear(x, group, tables, routing)
        half = x.shape[1] // 2
        parts = (F.pad(x[:, :half], (0, x.shape[1] - half)), F.pad(x[:, half:], (half, 0)))
        first, second = (
            super(InHalves, self).adapted_linear(part, group, tables, routing) for part in parts
        )
        return tuple(a + b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_a_product_in_halves_is_found_out(native: NativeCpuOps, dtype: torch.dtype) -> None:
    """Were the kernels to sum by the number of rows, the tests above would see it."""
    wrong = InHalves(native.level)
    x, weight = cancelling_nf4(133, 96, 576, dtype)
    found = parts_that_differ(base_product(wrong, weight, dtype), x, NUM_TOKENS)
    assert {count % 2 for _, count in found} == {0}
    x, _ = cancelling_product(41, 16, 576, dtype)
    found = parts_that_differ(adapter_product(wrong, 16, dtype), x, (1, 2, 3, 4, 5))
    assert {count % 2 for _, count in found} == {0}


def test_a_segment_may_start_anywhere_in_a_tile(native: Ops) -> None:
    """Rows are taken 64 at a time; segments cross that border and end on it."""
    case = GroupCase.make((60,), 64, BF16)
    x = case.inputs(200, BF16)
    for slots in (
        [0] * 60 + [4] * 10 + [0] * 130,
        [2] * 64 + [4] * 64 + [0] * 72,
        [6] * 190 + [0] * 10,
        [0] * 128 + [4] * 72,
    ):
        assert_close(case.run(native, x, slots)[0], case.expected(x, slots)[0])


def test_unused_slots_are_never_read(native: Ops) -> None:
    """The case's last slot is full of NaN, and a slot without tensors has no address."""
    case = GroupCase.make((24,), 64, BF16)
    x = case.inputs(6, BF16)
    slots = [5, 0, 5, 4, 4, 0]
    clean = case.run(native, x, slots)[0]
    assert clean.isfinite().all()
    for slot in (1, 2, 3, len(RANKS) + 1):
        case.tables[0].clear(slot)
    assert torch.equal(case.run(native, x, slots)[0], clean)


def test_what_would_be_read_out_of_bounds_is_refused(native: Ops) -> None:
    case = GroupCase.make((24, 8), 64, BF16)
    group = native.pack(case.weights, case.biases, BF16, CPU)
    x, routing = case.inputs(2, BF16), Routing.from_slots([1, 0])
    with pytest.raises(ValueError, match="x must be"):
        native.adapted_linear(x.float(), group, case.tables, routing)
    with pytest.raises(ValueError, match="x must be"):
        native.adapted_linear(x[:1], group, case.tables, routing)
    with pytest.raises(ValueError, match="a table for each"):
        native.adapted_linear(x, group, case.tables[:1], routing)
    with pytest.raises(ValueError, match="not in a table"):
        native.adapted_linear(x, group, case.tables, Routing.from_slots([99, 0]))


def test_packed_weights_take_their_bits_and_no_more(native: Ops) -> None:
    (n, k) = (576, 1536)
    group = native.pack([Nf4Weight.quantize(torch.randn(n, k))], [None], BF16, CPU)
    assert group.weight.nbytes == n * k * 9 // 16  # type: ignore[attr-defined]
