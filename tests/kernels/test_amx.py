"""AMX's tile product, in software and where there is one in hardware, against its definition."""

from __future__ import annotations

import ctypes
import math
import mmap
import shutil
import subprocess
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from motet_kernels import Ops
from motet_kernels.cpu.native_build import SOURCES
from motet_kernels.cpu.native_library import NativeLibrary, runnable_levels
from numpy.typing import NDArray

from tests.support.kernel_cases import GroupCase, assert_close, slots_of

Bits = NDArray[np.uint16]  # of bf16
Floats = NDArray[np.float32]
TileProduct = Callable[[Bits, Bits, Floats], None]

BF16 = torch.bfloat16
LEVELS = ("amx-bf16", "amx-bf16-emulated")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-w", "-mavx512bw", "-mfma")
SMALLEST = Fraction(1, 2**126)  # a normal float32
LARGEST = Fraction(2**128 - 2**104)


def build(target: Path, name: str, *flags: str) -> TileProduct:
    source = Path(__file__).parent / "amx" / "tile_product.cpp"
    command = ["c++", *FLAGS, *flags, f"-I{SOURCES}", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    function = getattr(ctypes.CDLL(str(target)), name)

    def product(a: Bits, b: Bits, c: Floats) -> None:
        pairs = np.ascontiguousarray(b.reshape(16, 2, 16).transpose(0, 2, 1))
        function(*(ctypes.c_void_p(matrix.ctypes.data) for matrix in (a, pairs, c)))

    return product


@pytest.fixture(scope="module")
def tile_products(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, TileProduct]:
    """a [16, 32], b [32, 16] as bits of bf16; c [16, 16] += a b in place."""
    directory = tmp_path_factory.mktemp("amx")
    found = {}
    if shutil.which("c++"):
        levels = runnable_levels(LEVELS)
        if "amx-bf16" in levels:
            found["hardware"] = build(directory / "hardware.so", "tile_product")
        if "amx-bf16-emulated" in levels:
            found["software"] = build(
                directory / "software.so", "emulated_tile_product", "-DMOTET_EMULATE_AMX"
            )
    return found


@pytest.fixture(params=["hardware", "software"])
def tile_product(
    request: pytest.FixtureRequest, tile_products: Mapping[str, TileProduct]
) -> TileProduct:
    if request.param not in tile_products:
        pytest.skip(f"this machine cannot build or run tiles in {request.param}")
    return tile_products[request.param]


def rounded(value: Fraction) -> float:
    """To float32, halfway cases to even, denormals to zero."""
    unit = Fraction(2) ** (math.frexp(float(value))[1] - 24)
    result = round(value / unit) * unit  # round() takes halfway cases to even
    if abs(result) > LARGEST:
        return math.copysign(math.inf, value)
    return math.copysign(float(result) if abs(result) >= SMALLEST else 0.0, value)


def fma(a: float, b: float, c: float) -> float:
    """a b + c, rounded once; a and b such that float64 holds a b."""
    a, b, c = (math.copysign(0.0, x) if abs(x) < SMALLEST else x for x in (a, b, c))
    if not math.isfinite(a * b + c) or not (a * b or c):
        return a * b + c  # infinite, not a number, or a zero with its sign
    value = Fraction(a * b) + Fraction(c)
    return rounded(value) if value else 0.0


def widened(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def defined(a: Bits, b: Bits, c: Floats) -> Floats:
    """c + a b by exact arithmetic, rounded after each step, in TDPBF16PS's order."""
    result = np.empty_like(c)
    for m, row in enumerate(widened(a).tolist()):
        for n, column in enumerate(widened(b).T.tolist()):
            sums = [0.0, 0.0]
            for k, (x, w) in enumerate(zip(row, column, strict=True)):
                sums[k % 2] = fma(x, w, sums[k % 2])
            result[m, n] = fma(1.0, fma(1.0, sums[0], sums[1]), float(c[m, n]))
    return result


def operands(kind: str) -> tuple[Bits, Bits, Floats]:
    random = np.random.default_rng(1)

    def bf16(values: NDArray[np.float64]) -> Bits:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    shapes = ((16, 32), (32, 16), (16, 16))
    if kind == "any bits":
        a, b = (random.integers(0, 2**16, shape).astype(np.uint16) for shape in shapes[:2])
        return a, b, random.integers(0, 2**32, shapes[2]).astype(np.uint32).view(np.float32)
    if kind == "ordinary":
        x, w, c = (random.normal(size=shape) for shape in shapes)
    elif kind == "halfway":  # between two floats: 1 + 2^-24 and the like
        x, w, c = (
            random.choice([0, 1, -1, 2.0**-12, -(2.0**-12), 1.5 * 2.0**-12], shape)
            for shape in shapes
        )
    elif kind == "denormal":  # inputs, products, sums and totals about the smallest normal number
        x, w, c = (random.normal(size=shape) * 2.0**-63 for shape in shapes)
        x[:, ::5] *= 2.0**-64
        w[::5] *= 2.0**64
        w[1::5] *= 2.0**-63
        c *= 2.0**-63
    else:  # "overflow"
        x, w, c = (random.normal(size=shape) * 2.0**63 for shape in shapes)
        c *= 2.0**64
    return bf16(x), bf16(w), c.astype(np.float32)


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("kind", ["ordinary", "halfway", "denormal", "overflow", "any bits"])
def test_a_tile_product_is_what_the_manual_says(tile_product: TileProduct, kind: str) -> None:
    a, b, c = operands(kind)
    expected = defined(a, b, c)
    tile_product(a, b, c)
    np.testing.assert_array_equal(c, expected)  # a NaN is equal to a NaN
    np.testing.assert_array_equal(np.signbit(c[c == 0]), np.signbit(expected[c == 0]))


def at_the_end_of_memory(x: torch.Tensor) -> torch.Tensor:
    """A copy of x after which nothing may be read."""
    size = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    copy = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=size - x.nbytes)
    end = ctypes.c_void_p(copy.data_ptr() + x.nbytes)
    assert ctypes.CDLL(None).mprotect(end, mmap.PAGESIZE, 0) == 0
    return copy.view_as(x).copy_(x)


def native_of(implementations: Mapping[str, Ops], level: str) -> Ops:
    if level not in implementations:
        pytest.skip(f"this machine cannot build or run {level}")
    return implementations[level]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("k", [4, 8, 12, 16, 32, 48, 72, 96, 160])
def test_groups_shorter_than_a_tile(implementations: Mapping[str, Ops], level: str, k: int) -> None:
    """Where K is no multiple of 64 a scale holds for 4 to 32 weights."""
    native = native_of(implementations, level)
    case = GroupCase.make((40,), k, BF16)
    x, slots = case.inputs(50, BF16), slots_of("random", 50)
    (y,) = case.run(native, x, slots)
    assert_close(y, case.expected(x, slots)[0])
    for t in (0, 15, 16, 31, 32, 49):
        assert torch.equal(case.run(native, x[t : t + 1], slots[t : t + 1])[0][0], y[t])


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_past_the_rows_is_read(implementations: Mapping[str, Ops], level: str) -> None:
    """Fewer rows than a tile has, and a K that ends within one; reading on would be a fault."""
    native = native_of(implementations, level)
    for k in (64, 100):
        case = GroupCase.make((40,), k, BF16)
        for num_tokens in (1, 15, 16, 17, 33):
            x = case.inputs(num_tokens, BF16)
            (y,) = case.run(native, at_the_end_of_memory(x), [0] * num_tokens)
            assert torch.equal(y, case.run(native, x, [0] * num_tokens)[0])


@pytest.mark.parametrize("level", LEVELS)
def test_a_row_of_infinities_does_not_touch_the_others(
    implementations: Mapping[str, Ops], level: str
) -> None:
    """Rows share a tile, and K's end is filled up in it."""
    native = native_of(implementations, level)
    for k in (64, 100):
        case = GroupCase.make((40,), k, BF16)
        x = case.inputs(20, BF16)
        (expected,) = case.run(native, x, [0] * 20)
        x[7], x[18] = torch.inf, torch.nan
        (y,) = case.run(native, x, [0] * 20)
        alone = [t for t in range(20) if t not in (7, 18)]
        assert torch.equal(y[alone], expected[alone])
        assert not y[[7, 18]].isfinite().any()


@pytest.mark.parametrize("k", [64, 100, 576])
def test_hardware_gives_the_bits_of_software(implementations: Mapping[str, Ops], k: int) -> None:
    hardware, software = (native_of(implementations, level) for level in LEVELS)
    case = GroupCase.make((24, 127), k, BF16)
    for num_tokens in (1, 16, 17, 33, 133):
        x, slots = case.inputs(num_tokens, BF16), slots_of("random", num_tokens)
        results = zip(case.run(hardware, x, slots), case.run(software, x, slots), strict=True)
        assert all(torch.equal(a, b) for a, b in results)


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
def test_software_is_never_chosen() -> None:
    assert "amx-bf16-emulated" not in runnable_levels()
    assert NativeLibrary().level != "amx-bf16-emulated"
