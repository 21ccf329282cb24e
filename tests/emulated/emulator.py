"""tinygrad's emulator, with what keeps kernels of ours from running on it worked around."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Callable
from typing import Any

SPARE = 255  # a vector register that no kernel here uses
ROW_XMASK, OWN_LANE = 0x160, 0xE4  # DPP controls of RDNA3: AMD's instruction set reference
VECTOR_REGISTERS = 1  # which of an instruction's buffers they are


def emulator(tinygrad: str) -> Callable[..., int]:
    """`run_asm` of a checkout of tinygrad.

    An instruction that takes its operand from other lanes (DPP) and writes it to the same register
    must read all lanes first. The emulator goes lane by lane and reads what it has just written,
    so such an operand is copied to a spare register before. And row_xmask, the lane whose
    number differs by a mask, is missing there (under the name of row_share).
    """
    sys.path.insert(0, tinygrad)  # its `test` is to be found before Python's own
    emu = importlib.import_module("test.mockgpu.amd.emu")
    decode = emu._decode_at
    moved: dict[int, int] = {}  # where an operand was moved to SPARE, and from which register

    def decode_apart(pc: int, arch: str) -> tuple[Any, Any]:
        decoded, instruction = decode(pc, arch)
        if not hasattr(type(instruction), "dpp"):
            return decoded, instruction
        source = ctypes.c_uint8.from_address(pc + instruction.size() - 4)  # the DPP word comes last
        register = moved.get(pc, source.value)
        if register != instruction.vdst.offset & 0xFF:
            return decoded, instruction
        moved[pc], source.value = register, SPARE
        (program, runtime), instruction = decode(pc, arch)
        lanes_bytes = 4 * emu._wave_size(arch)
        at = program.arg.globals.index(VECTOR_REGISTERS)

        class Apart:
            @staticmethod
            def fxn(*buffers: Any) -> None:
                registers = buffers[at].value
                ctypes.memmove(
                    registers + SPARE * lanes_bytes, registers + register * lanes_bytes, lanes_bytes
                )
                runtime.fxn(*buffers)

        return (program, Apart), instruction

    control = emu._dpp16_ctrl

    def control_with_row_xmask(lane: Any, dpp: int, *others: Any) -> tuple[Any, Any, Any]:
        if dpp & ~15 != ROW_XMASK:
            return control(lane, dpp, *others)
        own, enabled, valid = control(lane, OWN_LANE, *others)
        return own ^ emu._c(dpp & 15, emu.dtypes.int), enabled, valid

    emu._decode_at = decode_apart
    emu._dpp16_ctrl = control_with_row_xmask
    found: Callable[..., int] = emu.run_asm
    return found
