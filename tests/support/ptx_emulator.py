"""Runs straight-line inline PTX on arrays of 32-bit words, without a GPU.

Only what our own inline assembly uses. Semantics: NVIDIA's PTX ISA, "prmt" (default mode) and
"lop3".
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]


def run_ptx(source: str, operands: dict[str, Words]) -> dict[str, Words]:
    """Execute every statement in order; operands and results go by name, such as "$4".

    Raises ValueError for an instruction or a register that it does not know.
    """
    registers = dict(operands)
    for statement in re.split(r"[;{}]", source):
        words = statement.replace(",", " ").split()
        if words and words[0] != ".reg":
            opcode, target, *arguments = words
            registers[target] = _execute(opcode, [_value(each, registers) for each in arguments])
    return registers


def _value(text: str, registers: dict[str, Words]) -> Words:
    if text in registers:
        return registers[text]
    if re.fullmatch(r"0x[0-9A-Fa-f]+|\d+", text):
        return np.uint32(int(text, 0))
    raise ValueError(f"register {text} is read before it is written")


def _execute(opcode: str, arguments: list[Words]) -> Words:
    match opcode, arguments:
        case "and.b32", [a, b]:
            return a & b
        case "shl.b32", [a, b]:
            return a << b
        case "shr.u32", [a, b]:
            return a >> b
        case "prmt.b32", [a, b, selector]:
            return _prmt(a, b, selector)
        case "lop3.b32", [a, b, c, table]:
            return _lop3(a, b, c, int(table))
    raise ValueError(f"the emulator does not know {opcode} with {len(arguments)} arguments")


def _prmt(a: Words, b: Words, selector: Words) -> Words:
    """Byte i of the result: byte s % 8 of b:a, s the selector's nibble i; its sign, if s >= 8."""
    pool = [word >> np.uint32(8 * at) & np.uint32(0xFF) for word in (a, b) for at in range(4)]
    stacked = np.stack(np.broadcast_arrays(*pool))
    result = np.uint32(0)
    for at in range(4):
        nibble = selector >> np.uint32(4 * at) & np.uint32(0xF)
        byte = np.choose(nibble & np.uint32(7), stacked)
        sign = np.where(byte & np.uint32(0x80), np.uint32(0xFF), np.uint32(0))
        byte = np.where(nibble & np.uint32(8), sign, byte)
        result = result | byte.astype(np.uint32) << np.uint32(8 * at)
    return result


def _lop3(a: Words, b: Words, c: Words, table: int) -> Words:
    """Bit by bit, the table's bit at 4 a + 2 b + c."""
    result = np.uint32(0)
    for row in range(8):
        if table >> row & 1:
            terms = [word if row >> at & 1 else ~word for word, at in ((a, 2), (b, 1), (c, 0))]
            result = result | terms[0] & terms[1] & terms[2]
    return result
