"""Single instructions on tinygrad's emulator, held to AMD's definitions: TINYGRAD=DIR pytest."""

from __future__ import annotations

import ctypes
import importlib
import os
from typing import Any

import numpy as np
import pytest

from tests.emulated.emulator import DPP_MARK, worked_around

CHECKOUT = os.environ.get("TINYGRAD")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="TINYGRAD names no checkout of tinygrad")

ROW_BCAST_15, ROW_XMASK, ROW_SHR = 0x142, 0x160, 0x110
EVERY = 0xFF  # rows and banks


@pytest.fixture(scope="module")
def emu() -> Any:
    os.environ["DEV"] = "CPU"
    return worked_around(str(CHECKOUT))


@pytest.fixture(scope="module")
def names(emu: Any) -> Any:
    """v[...] and s[...] of its assembler."""
    return importlib.import_module("tinygrad.renderer.amd.dsl")


def after(
    emu: Any, arch: str, code: bytes, vectors: dict[int, Any], *, lds: Any = (0,), s4: int = 0
) -> Any:
    """The vector registers [256, lanes] after one instruction."""
    lanes = emu._wave_size(arch)
    wave = emu.WaveState(lanes, lanes)
    registers = np.frombuffer(wave._vgpr_mv, np.uint32).reshape(256, lanes)
    for register, values in vectors.items():
        registers[register] = values
    wave._write_sgpr(4, s4)
    memory = ctypes.create_string_buffer(code + bytes(16))
    shared = np.array(lds, np.uint32)
    wave.pc = ctypes.addressof(memory)
    (program, runtime), _ = emu._decode_at(wave.pc, arch)
    addresses = [wave.sgpr_buf._buf.va_addr, wave.vgpr_buf._buf.va_addr, 0, shared.ctypes.data, 0]
    addresses.append(wave.accvgpr_buf._buf.va_addr)
    runtime.fxn(*(ctypes.c_uint64(addresses[at]) for at in program.arg.globals))
    assert wave.pc == ctypes.addressof(memory) + len(code)
    return registers.copy()


def exchanged(code: bytes, register: int, control: int, masks: int = EVERY, zero: int = 0) -> bytes:
    """An instruction whose first operand is to come from other lanes of a register."""
    words = np.frombuffer(code, np.uint32).copy()
    words[-1] = words[-1] & ~np.uint32(0x1FF) | np.uint32(DPP_MARK)
    last = register | control << 8 | zero << 19 | masks << 24
    return words.tobytes() + last.to_bytes(4, "little")


def test_a_masked_exchange_leaves_the_other_rows(emu: Any, names: Any) -> None:
    lane, v = np.arange(64), names.v
    code = exchanged(emu.irc.v_add_u32_e32(v[1], v[2], v[1]).to_bytes(), 2, ROW_BCAST_15, 0xAF)
    found = after(emu, "cdna", code, {1: lane, 2: 100 + lane})
    is_odd_row = lane // 16 % 2 == 1
    assert (found[1] == np.where(is_odd_row, lane + 100 + (lane & ~15) - 1, lane)).all()


@pytest.mark.parametrize("zero", [0, 1])
def test_a_lane_without_a_source_is_left_or_reads_zero(emu: Any, names: Any, zero: int) -> None:
    lane, v = np.arange(32), names.v
    plain = emu.ir3.v_add_nc_u32_e32(v[1], v[2], v[3]).to_bytes()
    code = exchanged(plain, 2, ROW_SHR + 2, zero=zero)
    found = after(emu, "rdna3", code, {1: 7 + lane, 2: 100 + lane, 3: 1000 + lane})
    absent = 1000 + lane if zero else 7 + lane
    assert (found[1] == np.where(lane % 16 >= 2, 1098 + 2 * lane, absent)).all()


def test_an_exchange_reads_all_lanes_before_it_writes(emu: Any, names: Any) -> None:
    lane, v = np.arange(32), names.v
    plain = emu.ir3.v_add_nc_u32_e32(v[1], v[1], v[1]).to_bytes()
    found = after(emu, "rdna3", exchanged(plain, 1, ROW_XMASK + 8), {1: lane**2})
    assert (found[1] == lane**2 + (lane ^ 8) ** 2).all()


def test_an_exchange_in_an_instruction_of_three_operands(emu: Any, names: Any) -> None:
    lane, v = np.arange(32), names.v
    plain = emu.ir3.v_add3_u32(v[1], v[2], v[3], v[4]).to_bytes()
    code = exchanged(plain, 2, ROW_XMASK + 1)
    found = after(emu, "rdna3", code, {2: lane, 3: 100 * lane, 4: 10000})
    assert (found[1] == (lane ^ 1) + 100 * lane + 10000).all()


@pytest.mark.parametrize("half", ["", "_hi"])
def test_a_half_loaded_leaves_the_other(emu: Any, names: Any, half: str) -> None:
    lane, v = np.arange(32), names.v
    load = getattr(emu.ir3, f"ds_load_u16_d16{half}")
    found = after(
        emu, "rdna3", load(vdst=v[1], addr=v[0]).to_bytes(), {0: 4 * lane, 1: 0xAAAABBBB},
        lds=0x77770000 + lane,
    )  # fmt: skip
    assert (found[1] == (0xBBBB + (lane << 16) if half else 0xAAAA0000 + lane)).all()


def test_a_permute_reads_its_literal(emu: Any, names: Any) -> None:
    """The rows of 16 lanes change places, and with these selections nothing else happens."""
    lane, v, s = np.arange(32), names.v, names.s
    code = emu.ir3.v_permlanex16_b32(v[1], v[1], s[4], 0xFEDCBA98).to_bytes()
    found = after(emu, "rdna3", code, {1: lane}, s4=0x76543210)
    assert (found[1] == (lane ^ 16)).all()


@pytest.mark.parametrize("register", [3, 138])
def test_16_bit_operands_on_cdna_are_lower_halves(emu: Any, names: Any, register: int) -> None:
    lane, v = np.arange(64), names.v
    code = emu.irc.v_lshlrev_b16_e32(v[1], 4, v[register]).to_bytes()
    found = after(emu, "cdna", code, {register: 0xABC00000 + lane, 10: 0x99990000})
    assert (found[1] == lane << 4).all()
