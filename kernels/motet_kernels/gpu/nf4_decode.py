"""Triton: NF4 codes to numbers, by byte permutes or by a tree of selects.

The numbers are the 16 values of NF4 rounded to the compute dtype; the block's scale is applied
later, in float32, to sums.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import torch
import triton
import triton.language as tl

from motet_kernels.nf4 import BLOCK_LEN

# QLoRA, https://arxiv.org/abs/2305.14314, appendix E.
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def value_bits(dtype: torch.dtype) -> tuple[int, ...]:
    """The values' bit patterns in a dtype, from 0 on, by code."""
    bits = (
        torch.tensor(NF4_VALUES).to(dtype).view(torch.int16 if dtype.itemsize == 2 else torch.int32)
    )
    return tuple(int(each) % (1 << 8 * dtype.itemsize) for each in bits)


def value_words(dtype: torch.dtype, shift: int = 0) -> tuple[int, ...]:
    """16 bits of each from bit `shift` on, four to a signed word of 64, the first one lowest."""
    parts = torch.tensor([bits >> shift & 0xFFFF for bits in value_bits(dtype)], dtype=torch.int32)
    words: list[int] = parts.to(torch.uint16).view(torch.int64).tolist()
    return tuple(words)


def permute_asm(dtype: torch.dtype) -> str:
    """PTX: $4, four bytes of codes -> $0, $1: their high nibbles' values; $2, $3: the low ones'.

    prmt.b32 takes bytes of two registers, eight in all, by three bits of each nibble of a selector,
    and codes are such nibbles: with a word of codes as the selector, it looks up one byte for each
    of its lower four codes in half a table of 16. A value has two bytes, so there are two tables,
    of low and of high bytes. For each: a look-up in either half, and a choice between the two by
    the code's fourth bit, which prmt spreads over a byte in its mode that repeats the sign.
    """
    bits = value_bits(dtype)
    planes = [_table_words([(value >> shift) & 0xFF for value in bits]) for shift in (0, 8)]
    lines = [
        "{ .reg .b32 shifted, selector, upper, low, high, other;",
        "shl.b32 shifted, $4, 4;",
        "and.b32 selector, $4, 0x77777777;",
    ]
    # codes in the order of their nibbles: byte 0 low, byte 0 high, byte 1 low, byte 1 high
    for signs, high_nibbles, low_nibbles in (("0x9D8C", "$0", "$2"), ("0xBFAE", "$1", "$3")):
        lines.append(f"prmt.b32 upper, $4, shifted, {signs};")
        for plane, words in zip(("low", "high"), planes, strict=True):
            lines += [
                f"prmt.b32 other, {words[0]}, {words[1]}, selector;",
                f"prmt.b32 {plane}, {words[2]}, {words[3]}, selector;",
                f"lop3.b32 {plane}, upper, {plane}, other, 0xCA;",
            ]
        lines += [
            f"prmt.b32 {high_nibbles}, low, high, 0x7351;",
            f"prmt.b32 {low_nibbles}, low, high, 0x6240;",
            "shr.u32 selector, selector, 16;",
        ]
    return "\n".join([*lines[:-1], "}"])


def _table_words(table: list[int]) -> list[str]:
    """Bytes, four a word, the first one lowest."""
    return [f"0x{int.from_bytes(table[at : at + 4], 'little'):08X}" for at in range(0, 16, 4)]


_BLOCK_LEN = tl.constexpr(BLOCK_LEN)
_BF16_WORDS = tl.constexpr(value_words(torch.bfloat16))
_FP16_WORDS = tl.constexpr(value_words(torch.float16))
_FP32_LOW_WORDS = tl.constexpr(value_words(torch.float32))
_FP32_HIGH_WORDS = tl.constexpr(value_words(torch.float32, 16))
_BF16_ASM = tl.constexpr(permute_asm(torch.bfloat16))
_FP16_ASM = tl.constexpr(permute_asm(torch.float16))
_FORM = tl.constexpr("=r,=r,=r,=r,r")


@triton.jit
def decode(codes, DTYPE: tl.constexpr, PERMUTE: tl.constexpr):
    """uint8 codes [..] -> the values of the high nibbles and of the low ones, DTYPE [..] each.

    PERMUTE: by PTX, for bf16 and fp16 on NVIDIA. Without it, by selects, for any machine.
    """
    if PERMUTE and DTYPE.is_bf16():
        high, low = tl.inline_asm_elementwise(
            _BF16_ASM, _FORM, [codes], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    elif PERMUTE:
        high, low = tl.inline_asm_elementwise(
            _FP16_ASM, _FORM, [codes], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
    else:
        high = select_value((codes >> 4).to(tl.int32), DTYPE)
        low = select_value((codes & 15).to(tl.int32), DTYPE)
    return high, low


@triton.jit
def scale_border(n, IN_FEATURES: tl.constexpr):
    """Where K is no multiple of 64: from which input of each block of output n on the next scale
    holds, 1 to 64; see `PackedNf4`."""
    return -(n * IN_FEATURES % _BLOCK_LEN) + _BLOCK_LEN


@triton.jit
def select_value(code, DTYPE: tl.constexpr):
    """int32 codes, 0 to 15 -> DTYPE values, taken as bits out of words of four times 16: without
    rounding, which some GPUs do for bf16 in software, and with few conditions to keep."""
    if DTYPE.is_bf16():
        value = _part(code, _BF16_WORDS).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    elif DTYPE.is_fp16():
        value = _part(code, _FP16_WORDS).to(tl.uint16).to(tl.float16, bitcast=True)
    else:
        high = _part(code, _FP32_HIGH_WORDS) << 16
        value = (high | _part(code, _FP32_LOW_WORDS)).to(tl.float32, bitcast=True)
    return value


@triton.jit
def _part(code, WORDS: tl.constexpr):
    """int32: the code's 16 bits of the 256."""
    low = tl.where(code & 4 != 0, WORDS[1], WORDS[0])
    high = tl.where(code & 4 != 0, WORDS[3], WORDS[2])
    word = tl.where(code & 8 != 0, high, low)
    return (word >> ((code & 3) * 16).to(tl.int64)).to(tl.int32) & 0xFFFF
