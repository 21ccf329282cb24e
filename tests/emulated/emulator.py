"""tinygrad's emulator, with the faults that kernels of ours met worked around.

Each is worked around as AMD defines the instruction: its pseudocode, which the checkout carries,
and `lane_exchange.py` for what that leaves out. `test_emulator.py` holds it to that definition:

- An operand from other lanes (DPP) is read lane by lane while results are written, row_bcast reads
  the wrong lane, row_xmask is missing, lanes that a mask or an absent source disables are written,
  and in instructions of 8 bytes (VOP3) the operand reads as 0.
- Loads from LDS of half a register lose the other half, and the upper half is written to the lower.
- 16-bit integer instructions of 4 bytes on CDNA take v128 and up for upper halves of registers, as
  RDNA3 encodes them; CDNA has no such encoding.
- A literal operand of a lane operation (v_permlanex16_b32) reads as 0.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.emulated.lane_exchange import LaneExchange

Words = NDArray[np.uint32]
Decoded = tuple[tuple[Any, Any], Any]  # the program and its code, the instruction

SCALARS, VECTORS = 0, 1  # which of a program's buffers hold these registers
EXEC, PC = 126, 256  # where among the scalar registers
SCALAR_COUNT, VECTOR_COUNT = 260, 256
SPARE = 255  # the vector register that an exchanged operand is put in while it is read
DPP_MARK = 0xFA  # in the place of the first operand
LOW = np.uint32(0xFFFF)


def emulator(tinygrad: str) -> Callable[..., int]:
    """`run_asm` of a checkout of tinygrad."""
    run: Callable[..., int] = worked_around(tinygrad).run_asm
    return run


def worked_around(tinygrad: str) -> Any:
    """The emulator's module. To be called once in a process."""
    sys.path.insert(0, tinygrad)  # its `test` is to be found before Python's own
    emu = importlib.import_module("test.mockgpu.amd.emu")
    decode = emu._decode_at

    def decode_right(pc: int, arch: str) -> Decoded:
        code = bytes((ctypes.c_char * 16).from_address(pc).raw)
        instruction = emu.decode_inst(code, arch)
        name = emu._op_name(instruction)
        if hasattr(type(instruction), "dpp"):
            return _exchanged(emu, decode, pc, arch, instruction, name)
        decoded = decode(pc, arch)
        if name.startswith(("DS_LOAD", "DS_READ")) and "D16" in name:
            return _half_loaded(emu, decoded, arch, name)
        return decoded  # type: ignore[no-any-return]

    for kind in (emu.irc.VOP1, emu.irc.VOP2, emu.irc.VOPC):
        kind.canonical_op_bits = property(_without_halves(emu, kind.canonical_op_bits.func))
    emu._Ctx.compile_lane_pcode = _with_literal(emu, emu._Ctx.compile_lane_pcode)
    emu._decode_at = decode_right
    return emu


class Registers:
    """The registers of a wave, as the emulator keeps them."""

    def __init__(self, program: Any, buffers: tuple[Any, ...], lanes: int) -> None:
        at = program.arg.globals.index
        self.vectors = _words(buffers[at(VECTORS)].value, VECTOR_COUNT * lanes).reshape(-1, lanes)
        self.scalars = _words(buffers[at(SCALARS)].value, SCALAR_COUNT)
        lane = np.arange(lanes)
        self.active = (self.scalars[EXEC + lane // 32] >> (lane % 32).astype(np.uint32) & 1) == 1

    def jump(self, pc: int) -> None:
        self.scalars[PC : PC + 2] = pc & 0xFFFFFFFF, pc >> 32


class Code:
    """What the emulator runs for an instruction."""

    def __init__(self, fxn: Callable[..., None]) -> None:
        self.fxn = fxn


def _exchanged(
    emu: Any, decode: Callable[..., Decoded], pc: int, arch: str, instruction: Any, name: str
) -> Decoded:
    """The exchange is done first, into SPARE; the instruction then runs without it, apart."""
    size, lanes = instruction.size(), emu._wave_size(arch)
    words = np.frombuffer(ctypes.string_at(pc, size), np.uint32).copy()
    exchange = LaneExchange.of(int(words[-1]), lanes)
    is_short = size == 8 and instruction.canonical_op_bits["s0"] == 16  # half a register
    if exchange.modifiers or "CMP" in name or hasattr(instruction, "sdst") or is_short:
        raise RuntimeError(f"{name} with an operand from other lanes")
    plain = words[:-1].copy()
    plain[-1] += 256 + SPARE - DPP_MARK  # the operand is its lowest 9 bits
    apart = ctypes.create_string_buffer(plain.tobytes() + bytes(16))
    (program, runtime), _ = decode(ctypes.addressof(apart), arch)
    target = instruction.vdst.offset & 0xFF

    def run(*buffers: Any) -> None:
        registers = Registers(program, buffers, lanes)
        vectors = registers.vectors
        spare, before = vectors[SPARE].copy(), vectors[target].copy()
        vectors[SPARE], is_written = exchange.of_lanes(vectors[exchange.register], registers.active)
        registers.jump(ctypes.addressof(apart))
        runtime.fxn(*buffers)
        registers.jump(pc + size)
        vectors[SPARE] = spare
        vectors[target] = np.where(is_written, vectors[target], before)

    return (program, Code(run)), instruction


def _half_loaded(emu: Any, decoded: Decoded, arch: str, name: str) -> Decoded:
    """D16: the 16 bits go into the lower half, D16_HI: the upper; the other half stays."""
    (program, runtime), instruction = decoded
    lanes, target = emu._wave_size(arch), instruction.vdst.offset & 0xFF

    def run(*buffers: Any) -> None:
        registers = Registers(program, buffers, lanes)
        result = registers.vectors[target]
        before = result.copy()
        runtime.fxn(*buffers)
        half = result & LOW
        merged = before & LOW | half << 16 if name.endswith("HI") else before & ~LOW | half
        result[:] = np.where(registers.active, merged, before)

    return (program, Code(run)), instruction


def _without_halves(emu: Any, widths: Callable[[Any], dict[str, int]]) -> Callable[..., Any]:
    """Operands of 16 bits as registers of 32, of which the definition itself takes the lower half.
    Not for floats, whose inline constants are of 16 bits."""

    def of(instruction: Any) -> dict[str, int]:
        found = widths(instruction)
        if "F16" in emu._op_name(instruction):
            return found
        return {name: 32 if width == 16 else width for name, width in found.items()}

    return of


def _with_literal(emu: Any, compile_lane: Callable[..., Any]) -> Callable[..., Any]:
    """A 32-bit literal that follows a lane operation is read as such."""

    def compile_with_literal(ctx: Any, operation: Any, instruction: Any) -> Any:
        literal = ctx.optional_field(instruction, "literal")
        if literal is None:
            return compile_lane(ctx, operation, instruction)
        operand = emu._Ctx.rsrc_dyn
        emu._Ctx.rsrc_dyn = lambda ctx, off, lane: operand(ctx, off, lane, 32, literal)
        try:
            return compile_lane(ctx, operation, instruction)
        finally:
            emu._Ctx.rsrc_dyn = operand

    return compile_with_literal


def _words(address: int, count: int) -> Words:
    return np.frombuffer((ctypes.c_uint32 * count).from_address(address), np.uint32)
