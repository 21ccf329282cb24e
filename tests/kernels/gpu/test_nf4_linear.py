"""The three kernels of NF4 linears, through Triton's interpreter, with adapters and without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from motet_kernels import LowRank, ReferenceOps, Routing, SlotTable
from motet_kernels.gpu import nf4_linear
from motet_kernels.gpu.gpu_ops import GpuOps
from motet_kernels.gpu.lowrank_product import FEW_ROWS, LowRankProduct
from motet_kernels.gpu.nf4_layout import PackedNf4
from motet_kernels.gpu.nf4_linear import (
    MANY_ROWS,
    Nf4Product,
    dequantized,
    path_of,
    tiles_fit,
)
from motet_kernels.gpu.tiles import Tiles
from motet_kernels.gpu.tuning import Entry
from motet_kernels.gpu.tuning_files import tuning_of
from torch import Tensor
from triton.runtime.errors import InterpreterError

from tests.support.bounded_memory import bound_memory
from tests.support.cancelling import cancelling_nf4, parts_that_differ
from tests.support.kernel_cases import CPU, DTYPES, GroupCase, assert_close, random_weight, slots_of
from tests.support.ordered_dot import order_dots
from tests.support.poison import poisoned_memory

Path = Literal["tile", "gemv", "dequantize"]
PATHS: tuple[Path, ...] = ("tile", "gemv", "dequantize")
SHAPES = [((24,), 60), ((7, 40, 24), 64), ((40, 24), 127), ((33,), 200), ((16,), 576)]
ROWS = {"tile": 7, "gemv": 3, "dequantize": 7}


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few rows are many to the dequantiser here: what it does, it does to weights."""
    monkeypatch.setattr(nf4_linear, "MANY_ROWS", FEW_ROWS + 1)
    found: Path = request.param
    return found


@pytest.fixture(params=DTYPES["gpu"], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def ops_of(path: Path) -> GpuOps:
    return GpuOps(fast_math=path != "tile")


def test_path_by_rows() -> None:
    assert {path_of(rows, fast_math=False) for rows in (1, 4, 5, 64, 10_000)} == {"tile"}
    fast = {rows: path_of(rows, fast_math=True) for rows in (1, 4, 5, 255, 256, 10_000)}
    assert list(fast.values()) == ["gemv", "gemv", "tile", "tile", "dequantize", "dequantize"]
    assert (FEW_ROWS, MANY_ROWS) == (4, 256)
    assert path_of(5, fast_math=False, tiled=False) == "dequantize"


def test_where_tiles_do_not_fit_rows_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 on AMD: the weight is written out, and multiplied in blocks of one size."""
    assert not tiles_fit(torch.float32, hip=True)
    assert tiles_fit(torch.bfloat16, hip=True)
    assert tiles_fit(torch.float32, hip=False)
    monkeypatch.setattr(nf4_linear, "tiles_fit", lambda *_, **__: False)
    monkeypatch.setattr(nf4_linear, "nf4_tile_kernel", None)
    order_dots(monkeypatch)
    case = GroupCase.make((24,), 60, torch.float32)
    x, slots = case.inputs(5, torch.float32), slots_of("random", 5)
    (whole,) = case.run(GpuOps(), x, slots)
    assert_close(whole, case.expected(x, slots)[0])
    for t in range(5):
        assert torch.equal(case.run(GpuOps(), x[t : t + 1], slots[t : t + 1])[0][0], whole[t])


@pytest.mark.parametrize(("outs", "k"), SHAPES)
@pytest.mark.parametrize("popularity", ["random", "all-base"])
def test_every_path_computes_the_linear(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    dtype: torch.dtype,
    outs: tuple[int, ...],
    k: int,
    popularity: str,
) -> None:
    bound_memory(monkeypatch)
    case = GroupCase.make(outs, k, dtype)
    x, slots = case.inputs(ROWS[path], dtype), slots_of(popularity, ROWS[path])
    with poisoned_memory():
        actual = case.run(ops_of(path), x, slots)
    for y, expected in zip(actual, case.expected(x, slots), strict=True):
        assert_close(y, expected)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4])
def test_gemv_of_each_number_of_rows(num_rows: int) -> None:
    case = GroupCase.make((24, 40), 200, torch.float32)
    x, slots = case.inputs(num_rows, torch.float32), slots_of("random", num_rows)
    with poisoned_memory():
        actual = case.run(ops_of("gemv"), x, slots)
    for y, expected in zip(actual, case.expected(x, slots), strict=True):
        assert_close(y, expected)


@pytest.mark.parametrize("k", [24, 60, 64, 127, 192])
def test_dequantiser_has_bitsandbytes_bits(dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    weights = [random_weight(n, k, generator) for n in (17, 40)]
    with poisoned_memory():
        found = dequantized(PackedNf4.pack(weights, CPU), dtype)
    assert torch.equal(found, torch.cat([weight.dequantize(dtype) for weight in weights]))


def test_a_kernel_that_leaves_its_tensors_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    bound_memory(monkeypatch)
    packed = PackedNf4.pack([random_weight(24, 64, torch.Generator())], CPU)
    beyond = replace(packed, sizes_table=packed.sizes_table + 1)  # an output that is not there
    dequantized(packed, torch.float32)
    with pytest.raises(InterpreterError, match="outside of any tensor"):
        dequantized(beyond, torch.float32)


def test_unused_slots_are_not_read(path: Path) -> None:
    case = GroupCase.make((24, 40), 64, torch.float32)
    slots = [4, 2, 0] if path == "gemv" else [4, 4, 0, 2, 2, 0, 4]
    x = case.inputs(len(slots), torch.float32)
    clean = case.run(ops_of(path), x, slots)
    case.spoil_unused_slots(slots)
    for y, expected in zip(case.run(ops_of(path), x, slots), clean, strict=True):
        assert torch.equal(y, expected)


def walled(tensor: Tensor) -> Tensor:
    """The tensor in the middle of NaN, so that what is read beside it shows in the result."""
    rows = tensor.shape[0]
    whole = torch.full((rows + 80, *tensor.shape[1:]), torch.nan, dtype=tensor.dtype)
    whole[40 : 40 + rows] = tensor
    return whole[40 : 40 + rows]


@pytest.mark.parametrize(("outs", "k"), [((24, 7), 60), ((40,), 192)])
def test_nothing_beside_the_operands_matters(path: Path, outs: tuple[int, ...], k: int) -> None:
    case = GroupCase.make(outs, k, torch.float32)
    rows = ROWS[path]
    x, slots = case.inputs(rows, torch.float32), slots_of("random", rows)
    tiles = Tiles.build(Routing.from_slots(slots), CPU)
    packed = PackedNf4.pack(case.weights, CPU)
    bias = torch.randn(sum(outs))
    fast = path != "tile"
    lowrank = LowRankProduct(tuning_of(CPU), fast_math=fast)
    product = Nf4Product(tuning_of(CPU), lowrank, fast_math=fast)
    shrunk = lowrank.shrink(x, case.tables, tiles)
    clean = product(x, packed, bias, shrunk, tiles)
    between_nan = replace(packed, absmax=walled(packed.absmax))
    found = product(walled(x), between_nan, walled(bias), shrunk, tiles)
    assert clean.isfinite().all()
    assert torch.equal(found, clean)


@pytest.mark.parametrize(("outs", "k"), [((40, 24), 64), ((24,), 127)])
def test_rows_keep_their_bits_in_larger_tiles(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, outs: tuple[int, ...], k: int
) -> None:
    """Nineteen rows are a tile of 32, the same rows by fours and alone tiles of 16."""
    order_dots(monkeypatch)
    case = GroupCase.make(outs, k, dtype)
    x, slots = case.inputs(19, dtype), slots_of("random", 19)
    gpu = GpuOps()
    whole = case.run(gpu, x, slots)
    for first, stop in ((0, 4), (4, 5), (13, 17), (18, 19)):
        part = case.run(gpu, x[first:stop], slots[first:stop])
        for y, expected in zip(part, whole, strict=True):
            assert torch.equal(y, expected[first:stop])


def test_rows_keep_their_bits_where_only_the_order_of_a_sum_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sums that cancel to zero: what comes out is rounding error, which float16 hides elsewhere."""
    order_dots(monkeypatch)
    x, weight = cancelling_nf4(19, 40, 192, torch.float16)
    x *= 256  # so that the error is within float16
    gpu = GpuOps()
    group = gpu.pack([weight], [None], torch.float16, CPU)
    table = SlotTable(1, 192, 40, CPU)

    def product(rows: Tensor) -> Tensor:
        (y,) = gpu.adapted_linear(rows, group, [table], Routing.from_slots([0] * len(rows)))
        return y

    assert product(x).count_nonzero() > 100
    assert not parts_that_differ(product, x, [1, 3, 16])


def test_input_gains_of_a_linear_alone(path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = random_weight(24, 60, generator)
    table = SlotTable(3, 60, 24, CPU)
    a, bt = torch.randn(2, 60, generator=generator), torch.randn(2, 24, generator=generator)
    in_gain = torch.randn(60, generator=generator) + 1
    table.put(1, LowRank(a.to(dtype), bt.to(dtype), in_gain=in_gain.to(dtype)))
    table.put(2, LowRank(a.to(dtype), bt.to(dtype)))
    x = torch.randn(ROWS[path], 60, generator=generator).to(dtype)
    routing = Routing.from_slots([1, 2, 0] if path == "gemv" else [1, 0, 1, 1, 2, 2, 0])
    results = [
        ops.adapted_linear(x, ops.pack([weight], [None], dtype, CPU), [table], routing)[0]
        for ops in (ops_of(path), ReferenceOps())
    ]
    assert_close(*results)


def test_input_gains_in_a_group_are_refused(path: Path) -> None:
    case = GroupCase.make((24, 40), 60, torch.float32)
    lowrank = case.tables[1][4]
    assert lowrank is not None
    case.tables[1].put(4, lowrank._replace(in_gain=torch.ones(60)))
    x = case.inputs(2, torch.float32)
    with pytest.raises(ValueError, match="in_gain"):
        case.run(ops_of(path), x, [4, 0])
    case.run(ops_of(path), x, [3, 0])  # no row of the step has it


def test_no_rows_give_no_rows(path: Path) -> None:
    case = GroupCase.make((24, 40), 64, torch.float32)
    results = case.run(ops_of(path), torch.empty(0, 64), [])
    assert [tuple(y.shape) for y in results] == [(0, 24), (0, 40)]


def test_rows_that_are_not_contiguous(path: Path) -> None:
    case = GroupCase.make((24,), 64, torch.float32)
    wide = case.inputs(ROWS[path], torch.float32).repeat(1, 2)
    slots = slots_of("random", ROWS[path])
    (y,) = case.run(ops_of(path), wide[:, :64], slots)
    assert_close(y, case.expected(wide[:, :64], slots)[0])


class Launches:
    """In a kernel's place: what it is launched with."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def __getitem__(self, grid: object) -> Any:
        return lambda *_arguments, **constants: self.found.append(constants)


def test_rows_choose_no_other_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a table says: outputs and warps of a program are the same for one row and many."""
    launches = Launches()
    monkeypatch.setattr(nf4_linear, "nf4_tile_kernel", launches)
    tuning = tuning_of(CPU)
    config = tuning.linear(1, 1000)
    others = (
        Entry({"rows": 16}, config),
        Entry({}, replace(config, block_rows=32, block_outputs=128, num_warps=8)),
    )
    tuning = replace(tuning, linears=others)
    product = Nf4Product(tuning, LowRankProduct(tuning))
    packed = PackedNf4.pack([random_weight(24, 64, torch.Generator())], CPU)
    for rows in (1, 100):
        tiles = Tiles.build(Routing.from_slots([0] * rows), CPU)
        product(torch.zeros(rows, 64).half(), packed, torch.zeros(24), None, tiles)
    one, many = launches.found
    assert (one["BLOCK_T"], many["BLOCK_T"]) == (16, 32)
    assert [one[name] for name in ("BLOCK_N", "num_warps")] == [
        many[name] for name in ("BLOCK_N", "num_warps")
    ]
