"""Every part that an adapter may have, on the GPU's kernels, through Triton's interpreter.

adapted_linear has the adapters in the NF4 kernel's epilogue, adapt in a kernel of their own, and
fast_math one row at a time; all three against the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from motet_kernels import LowRank, Routing, Segment, SlotTable
from motet_kernels.gpu.gpu_ops import GpuOps
from motet_kernels.gpu.lowrank_product import LowRankProduct
from motet_kernels.gpu.member_tables import MemberTablesCache
from motet_kernels.gpu.tiles import Tiles
from motet_kernels.gpu.tuning_files import tuning_of
from motet_kernels.lowrank import ACTIVATIONS, Activation
from torch import Tensor
from torch.nn import functional as F

from tests.support.kernel_cases import CPU, DTYPES, assert_close
from tests.support.lowrank_cases import (
    PARTS,
    LinearCase,
    adapter,
    normal,
    table_of,
    varied_adapters,
)
from tests.support.ordered_dot import order_dots
from tests.support.poison import poisoned_memory

K, N = 40, 24
RANKS = (0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 96)


@pytest.fixture(scope="module")
def gpu() -> GpuOps:
    return GpuOps()


@pytest.fixture(params=DTYPES["gpu"], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def check(gpu: GpuOps, case: LinearCase, *, adapt: bool = True) -> None:
    with poisoned_memory():
        linear = case.linear(gpu)
        adapted = case.adapt(gpu) if adapt else None
    for y, expected in zip(linear, case.expected_linear(), strict=True):
        assert_close(y, expected)
    if adapted is not None:
        assert_close(adapted, case.expected_adapt())


def varied_case(dtype: torch.dtype, slots: Sequence[int], k: int = K) -> LinearCase:
    return LinearCase.make([table_of(varied_adapters(k, N, dtype), k, N)], slots, dtype)


def test_ranks_from_0_to_96_side_by_side(gpu: GpuOps, dtype: torch.dtype) -> None:
    table = table_of([adapter(rank, K, N, dtype) for rank in RANKS], K, N)
    check(gpu, LinearCase.make([table], range(len(RANKS) + 1), dtype))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_part_beside_plain_and_base_rows(
    gpu: GpuOps, part: str, rank: int, dtype: torch.dtype
) -> None:
    adapters = [adapter(rank, K, N, dtype, parts=[part]), adapter(rank + 3, K, N, dtype)]
    check(gpu, LinearCase.make([table_of(adapters, K, N)], [2, 1, 1, 0, 1, 2], dtype))


# e^100 is inf in float32, and 1 / inf the 0 that is right
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(gpu: GpuOps, activation: Activation, dtype: torch.dtype) -> None:
    lowrank = adapter(9, K, N, dtype, parts=["inner_bias"], activation=activation)
    case = LinearCase.make([table_of([lowrank], K, N)], [1] * 6, dtype)
    size = torch.tensor([1e-3, 0.1, 1, 5, 20, 100])[:, None]  # of u: around 0 and far from it
    check(gpu, LinearCase(case.tables, (case.x * size).to(dtype), case.slots))


@pytest.mark.parametrize("activation", ["tanh", "gelu_new"])
def test_activation_near_zero_is_not_lost(gpu: GpuOps, activation: Activation) -> None:
    """Against y = 0, where only the adapter is left to be wrong."""
    lowrank = adapter(4, K, N, torch.float32, activation=activation)
    x = normal(torch.Generator().manual_seed(3), 2, K) * 1e-4
    case = LinearCase((table_of([lowrank], K, N),), x, (1, 1))
    y = torch.zeros(2, N)
    actual = gpu.adapt(x, y, case.tables[0], Routing.from_slots([1, 1]))
    u = x.double() @ lowrank.a.double().T
    u = torch.tanh(u) if activation == "tanh" else F.gelu(u, approximate="tanh")
    assert_close(actual, u @ lowrank.bt.double(), usual=1e-12)


def test_all_parts_in_one_batch(gpu: GpuOps, dtype: torch.dtype) -> None:
    count = len(varied_adapters(K, N, dtype))
    check(gpu, varied_case(dtype, [*range(count + 1), 0, 3, 3, 3]))


def test_long_reduction_is_split_before_the_inner_stage(gpu: GpuOps, dtype: torch.dtype) -> None:
    adapters = [
        adapter(5, 2500, N, dtype),
        adapter(5, 2500, N, dtype, parts=["core-3", "inner_bias"], activation="silu"),
    ]
    check(gpu, LinearCase.make([table_of(adapters, 2500, N)], [0, 1, 1, 2], dtype))


def test_rank_0_with_gain_and_bias_needs_no_product(gpu: GpuOps, dtype: torch.dtype) -> None:
    table = table_of([adapter(0, K, N, dtype, parts=["gain", "bias"])], K, N)
    check(gpu, LinearCase.make([table], [1, 0, 1], dtype))


def test_rows_on_one_slot_in_several_tiles_and_runs(gpu: GpuOps) -> None:
    slots = [2] * 35 + [0] * 2 + [2] * 3 + [18] * 18
    check(gpu, varied_case(torch.float32, slots))


def test_members_have_their_own_adapters(gpu: GpuOps, dtype: torch.dtype) -> None:
    sizes = (N, 70, 9)
    tables = [
        table_of(
            [
                adapter(3 + j, K, n, dtype, parts=["gain", "bias"][: j + 1], seed=j),
                None if j == 1 else adapter(18 * j, K, n, dtype, parts=["bias"], seed=j),
                adapter(5, K, n, dtype, parts=["core-0"], activation="tanh", seed=j)
                if j == 2
                else adapter(2, K, n, dtype, seed=j),
            ],
            K,
            n,
        )
        for j, n in enumerate(sizes)
    ]
    check(gpu, LinearCase.make(tables, [3, 1, 0, 2, 2, 1, 3], dtype))


# in_gain


def test_in_gain_scales_the_input_of_product_and_shrink(gpu: GpuOps, dtype: torch.dtype) -> None:
    adapters = [
        adapter(4, K, N, dtype, parts=["in_gain", "gain"]),
        adapter(0, K, N, dtype, parts=["in_gain"]),
        adapter(6, K, N, dtype),
    ]
    case = LinearCase.make([table_of(adapters, K, N)], [1, 2, 0, 3, 1], dtype)
    check(gpu, case, adapt=False)


def test_in_gain_beside_leaves_other_rows_bits(gpu: GpuOps, dtype: torch.dtype) -> None:
    plain = [adapter(6, K, N, dtype), adapter(4, K, N, dtype)]
    case = LinearCase.make([table_of(plain, K, N)], [1, 0, 1], dtype)
    without = case.linear(gpu)[0]
    case.tables[0].put(2, adapter(4, K, N, dtype, parts=["in_gain"]))
    assert torch.equal(case.linear(gpu)[0], without)


def test_in_gain_is_refused_where_the_input_is_shared(gpu: GpuOps) -> None:
    scaled = adapter(4, K, N, torch.float32, parts=["in_gain"])
    table = table_of([None, scaled], K, N)
    shared = LinearCase.make([table, table_of([None, None], K, N)], [0, 2], torch.float32)
    with pytest.raises(ValueError, match="slot 2 has an in_gain"):
        shared.linear(gpu)
    with pytest.raises(ValueError, match="slot 2 has an in_gain"):
        shared.adapt(gpu)
    check(gpu, shared.rows([0]))  # no row is on that slot


# Isolation


def test_slots_without_rows_may_hold_anything(gpu: GpuOps, dtype: torch.dtype) -> None:
    slots = [4, 0, 17, 17, 1]
    case = varied_case(dtype, slots)
    clean, clean_adapted = case.linear(gpu)[0], case.adapt(gpu)
    for slot in set(range(1, len(case.tables[0]))) - set(slots):
        lowrank = case.tables[0][slot]
        assert lowrank is not None
        for name, tensor in lowrank.tensors().items():
            tensor.fill_(2**30 if name == "core_columns" else torch.nan)
    with poisoned_memory():
        assert torch.equal(case.linear(gpu)[0], clean)
        assert torch.equal(case.adapt(gpu), clean_adapted)


def test_neighbours_adapters_of_nan_stay_with_their_rows(gpu: GpuOps, dtype: torch.dtype) -> None:
    case = varied_case(dtype, [1, 5, 0, 17, 2])
    clean, clean_adapted = case.linear(gpu)[0], case.adapt(gpu)
    for slot in (5, 17):
        lowrank = case.tables[0][slot]
        assert lowrank is not None
        for tensor in lowrank.tensors().values():
            tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.zero_()
    others = [0, 2, 4]
    assert torch.equal(case.linear(gpu)[0][others], clean[others])
    assert torch.equal(case.adapt(gpu)[others], clean_adapted[others])
    assert case.adapt(gpu)[[1, 3]].isnan().all()


def test_base_rows_have_the_bits_of_base_rows_alone(gpu: GpuOps, dtype: torch.dtype) -> None:
    case = varied_case(dtype, [0, 3, 0, 18, 0, 0, 12])
    base = [0, 2, 4, 5]
    alone = LinearCase(case.tables, case.x, (0,) * len(case.slots))
    assert torch.equal(case.linear(gpu)[0][base], alone.linear(gpu)[0][base])
    y = normal(torch.Generator().manual_seed(4), len(case.slots), N).to(dtype)
    y[0, :4] = torch.tensor([-0.0, torch.inf, torch.nan, 0.0])
    actual = gpu.adapt(case.x, y, case.tables[0], Routing.from_slots(case.slots))
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(actual[base].view(bits), y[base].view(bits))


@pytest.mark.parametrize("k", [K, 1500])
def test_a_row_alone_has_the_bits_of_the_row_in_a_batch(
    gpu: GpuOps, k: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_dots(monkeypatch)
    slots = [1, 0, 5, 8, 18, 1, 19, 2, 2]
    case = varied_case(dtype, slots, k)
    linear, adapted = case.linear(gpu)[0], case.adapt(gpu)
    for t in range(len(slots)) if k == K else (0, 4, 8):
        assert torch.equal(case.rows([t]).linear(gpu)[0], linear[[t]])
        assert torch.equal(case.rows([t]).adapt(gpu), adapted[[t]])


def test_the_order_of_rows_and_slots_changes_no_bits(
    gpu: GpuOps, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_dots(monkeypatch)
    case = varied_case(dtype, [1, 1, 4, 0, 12, 12, 18, 0, 7, 2])
    linear, adapted = case.linear(gpu)[0], case.adapt(gpu)
    for seed in range(3):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
        assert torch.equal(case.rows(order).linear(gpu)[0], linear[order])
        assert torch.equal(case.rows(order).adapt(gpu), adapted[order])
    # the same adapters in other slots
    lowranks = [case.tables[0][slot] for slot in range(1, len(case.tables[0]))]
    turned = table_of(lowranks[::-1], K, N)
    slots = tuple(slot and len(turned) - slot for slot in case.slots)
    assert torch.equal(LinearCase((turned,), case.x, slots).linear(gpu)[0], linear)


# Shapes of the operands


def test_adapt_takes_x_as_y_and_leaves_it_alone(gpu: GpuOps) -> None:
    table = table_of([adapter(4, N, N, torch.float32, activation="relu")], N, N)
    x = normal(torch.Generator().manual_seed(5), 3, N)
    before = x.clone()
    actual = gpu.adapt(x, x, table, Routing.from_slots([1, 0, 1]))
    assert torch.equal(x, before)
    lowrank = table[1]
    assert lowrank is not None
    u = torch.relu(x.double() @ lowrank.a.double().T)
    expected = x.double() + u @ lowrank.bt.double()
    assert_close(actual[[0, 2]], expected[[0, 2]])


def test_rows_that_do_not_follow_each_other_in_memory(gpu: GpuOps) -> None:
    table = table_of([adapter(4, K, N, torch.float32, parts=["bias"])], K, N)
    wide_x = normal(torch.Generator().manual_seed(6), 3, 2 * K)
    wide_y = normal(torch.Generator().manual_seed(7), 3, 3 * N)
    x, y, routing = wide_x[:, 5 : K + 5], wide_y[:, N : 2 * N], Routing.from_slots([1, 0, 1])
    expected = gpu.adapt(x.contiguous(), y.contiguous(), table, routing)
    assert torch.equal(gpu.adapt(x, y, table, routing), expected)


def test_slot_beyond_the_table_is_refused(gpu: GpuOps) -> None:
    table = table_of([adapter(4, K, N, torch.float32)], K, N)
    case = LinearCase.make([table], [0, 2], torch.float32)
    with pytest.raises(ValueError, match="slot 2 of the routing"):
        case.adapt(gpu)
    with pytest.raises(ValueError, match="slot 2 of the routing"):
        case.linear(gpu)


def test_no_rows(gpu: GpuOps) -> None:
    table = table_of([adapter(4, K, N, torch.float32)], K, N)
    assert gpu.adapt(torch.empty(0, K), torch.empty(0, N), table, Routing(())).shape == (0, N)


def test_runs_of_one_slot_side_by_side(gpu: GpuOps) -> None:
    case = varied_case(torch.float32, [2, 2, 2, 0, 3])
    segments = (Segment(2, 0, 1), Segment(2, 1, 3), Segment(0, 3, 4), Segment(3, 4, 5))
    y = torch.zeros(5, N)
    actual = gpu.adapt(case.x, y, case.tables[0], Routing(segments))
    expected = gpu.adapt(case.x, y, case.tables[0], Routing.from_slots(case.slots))
    assert torch.equal(actual, expected)


# One row at a time


def by_rows(case: LinearCase, y: Tensor, base_bias: Tensor | None) -> Tensor:
    """The adapter half by LowRankProduct(fast_math=True)."""
    product = LowRankProduct(tuning_of(CPU), fast_math=True)
    tiles = Tiles.build(Routing.from_slots(case.slots), CPU)
    with poisoned_memory():
        shrunk = product.shrink(case.x, case.tables, tiles)
        assert shrunk is not None
        assert shrunk.by_row
        return product.expand(y, shrunk, tiles, base_bias)


@pytest.mark.parametrize(
    "slots", [[1], [3, 0], [4, 5, 6, 7], [8, 9, 10], [11, 12, 17], [18, 19, 3]]
)
def test_few_rows_one_by_one(gpu: GpuOps, slots: list[int], dtype: torch.dtype) -> None:
    for k in (K, 1500):
        case = varied_case(dtype, slots, k)
        y = normal(torch.Generator().manual_seed(8), len(slots), N).to(dtype)
        bias = normal(torch.Generator().manual_seed(9), N)
        expected = gpu.adapt(case.x.double().float(), y.float(), widened(case), routing_of(case))
        assert_close(by_rows(case, y, bias), expected + bias)


def routing_of(case: LinearCase) -> Routing:
    return Routing.from_slots(case.slots)


def widened(case: LinearCase) -> SlotTable:
    """The first table with its adapters in float32."""
    table = case.tables[0]
    return table_of(
        [_float(table[slot]) for slot in range(1, len(table))],
        table.in_features,
        table.out_features,
    )


def _float(lowrank: LowRank | None) -> LowRank | None:
    if lowrank is None:
        return None
    core = lowrank.core and lowrank.core._replace(values=lowrank.core.values.float())
    vectors = ("a", "bt", "gain", "bias", "in_gain", "inner_bias", "delta_gain")
    wide = {name: v if (v := getattr(lowrank, name)) is None else v.float() for name in vectors}
    return lowrank._replace(core=core, **wide)


# The table of addresses


def test_new_adapters_are_found_at_the_same_place(gpu: GpuOps) -> None:
    table = table_of([adapter(4, K, N, torch.float32), None], K, N)
    cache = MemberTablesCache()
    before = cache.of([table], torch.float32)
    assert cache.of([table], torch.float32) is before
    table.put(2, adapter(30, K, N, torch.float32, parts=["in_gain"], activation="relu"))
    after = cache.of([table], torch.float32)
    assert after.pointers.data_ptr() == before.pointers.data_ptr()
    assert (before.ranks, after.ranks) == (16, 32)
    assert (before.slots, after.slots) == ({1}, {1, 2})
    assert (before.has_inner, after.has_inner) == (False, True)
    assert after.scaled_slots == {2}
    table.clear(1)
    table.clear(2)
    cleared = cache.of([table], torch.float32)
    assert not cleared.slots
    assert not cleared.pointers.any()
    assert not cleared.has_products


def test_wide_loads_only_where_every_row_allows_them() -> None:
    cache = MemberTablesCache()
    assert cache.of([table_of([adapter(4, 64, 32, torch.float16)], 64, 32)], torch.float16).aligned
    odd = table_of([adapter(4, 64, 31, torch.float16)], 64, 31)
    assert not cache.of([odd], torch.float16).aligned
    shifted = adapter(4, 64, 32, torch.float16)
    moved = torch.empty(4 * 64 + 1, dtype=torch.float16)[1:].view(4, 64).copy_(shifted.a)
    unaligned = table_of([shifted._replace(a=moved)], 64, 32)
    assert not cache.of([unaligned], torch.float16).aligned
