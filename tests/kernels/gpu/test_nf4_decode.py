"""Codes to numbers: the byte permutes in an emulator, the selects in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from bitsandbytes import functional as bnb
from motet_kernels.gpu.lowrank_product import TRITON_DTYPES
from motet_kernels.gpu.nf4_decode import NF4_VALUES, decode, permute_asm, value_bits

from tests.support.ptx_emulator import Words, run_ptx

ALL_PAIRS = np.arange(65536, dtype=np.uint32)
EVERY_BYTE = np.arange(256, dtype=np.uint32)


def permuted(words: Words, dtype: torch.dtype) -> tuple[Words, Words]:
    """Bits of the high nibbles' and the low nibbles' values: four each for a word, first lowest."""
    found = run_ptx(permute_asm(dtype), {"$4": words})
    halves = [
        np.stack([found[name] >> np.uint32(shift) & np.uint32(0xFFFF) for name, shift in places])
        for places in (
            [("$0", 0), ("$0", 16), ("$1", 0), ("$1", 16)],
            [("$2", 0), ("$2", 16), ("$3", 0), ("$3", 16)],
        )
    ]
    return halves[0], halves[1]


def test_values_are_bitsandbytes() -> None:
    assert torch.equal(torch.tensor(NF4_VALUES), bnb.get_4bit_type("nf4", device="cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rotation", [0, 8, 16, 24])
def test_permutes_decode_every_pair_of_bytes_in_every_place(
    dtype: torch.dtype, rotation: int
) -> None:
    """A pair's other two bytes are its complement, so that nothing can be read from there."""
    words = ALL_PAIRS | (~ALL_PAIRS & np.uint32(0xFFFF)) << np.uint32(16)
    words = words << np.uint32(rotation) | words >> np.uint32((32 - rotation) % 32)
    bits = np.array(value_bits(dtype), dtype=np.uint32)
    high, low = permuted(words, dtype)
    for at in range(4):
        byte = words >> np.uint32(8 * at) & np.uint32(0xFF)
        assert np.array_equal(high[at], bits[byte >> np.uint32(4)])
        assert np.array_equal(low[at], bits[byte & np.uint32(15)])


@triton.jit
def decode_kernel(codes, high, low, DTYPE: tl.constexpr, BITS: tl.constexpr):
    at = tl.arange(0, 256)
    first, second = decode(tl.load(codes + at), DTYPE, False)
    tl.store(high + at, first.to(BITS, bitcast=True))
    tl.store(low + at, second.to(BITS, bitcast=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_selects_give_the_permutes_bits(dtype: torch.dtype) -> None:
    bits, shape = (torch.int32, tl.int32) if dtype.itemsize == 4 else (torch.int16, tl.int16)
    high, low = torch.empty(256, dtype=bits), torch.empty(256, dtype=bits)
    codes = torch.arange(256, dtype=torch.uint8)
    decode_kernel[(1,)](codes, high, low, DTYPE=TRITON_DTYPES[dtype], BITS=shape)
    expected = torch.tensor(NF4_VALUES).to(dtype)
    assert torch.equal(high.view(dtype), expected[(codes >> 4).long()])
    assert torch.equal(low.view(dtype), expected[(codes & 15).long()])
    if dtype.itemsize == 2:
        first, second = permuted(EVERY_BYTE, dtype)
        assert np.array_equal(high.numpy().view(np.uint16), first[0])
        assert np.array_equal(low.numpy().view(np.uint16), second[0])


def test_the_emulator_knows_its_instructions() -> None:
    words = {"$1": np.array([0x44332211], np.uint32), "$2": np.array([0x88776655], np.uint32)}
    found = run_ptx(
        "{ .reg .b32 a, b; prmt.b32 a, $1, $2, 0x7520; prmt.b32 b, $1, $2, 0x0F08;"
        " lop3.b32 $3, $1, $2, a, 0xCA; }",
        words,
    )
    assert found["a"] == 0x88663311
    assert found["b"] == 0x11FF1100
    assert found["$3"] == (0x44332211 & 0x88776655) | (~0x44332211 & 0x88663311 & 0xFFFFFFFF)
    with pytest.raises(ValueError, match="does not know add"):
        run_ptx("add.u32 $3, $1, $2;", words)
    with pytest.raises(ValueError, match="before it is written"):
        run_ptx("and.b32 $3, $1, c;", words)
