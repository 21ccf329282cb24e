"""A compiled AMD kernel in this process's memory, as its ELF file and kernel descriptor say.

The descriptor's layout: LLVM's "User Guide for AMDGPU Backend", Kernel Descriptor.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from dataclasses import dataclass

LOADED, EXECUTABLE = 1, 1
SYMBOL_TABLES = (2, 11)

# Cache invalidations: nothing to an emulator without caches, and its decoder lacks them.
NOP = 0xBF800000
CACHE_INVALIDATIONS = {0xE0AC0000, 0xE0B00000, 0xE0C40000, 0xE0AC4000}

# Bits of kernel_code_properties: what the first scalar registers are filled with.
PRIVATE_SEGMENT_BUFFER, DISPATCH_POINTER, QUEUE_POINTER, KERNARG_POINTER = 1, 2, 4, 8
LDS_UNIT, LDS_SHIFT, LDS_MASK = 512, 15, 0x1FF


@dataclass(frozen=True)
class CodeObject:
    """memory holds the code for as long as the object lives; sizes are in bytes."""

    memory: mmap.mmap
    entry: int  # address of the first instruction
    lds_size: int
    scratch_size: int
    arguments_size: int
    resources: int  # COMPUTE_PGM_RSRC2
    properties: int
    preload: int  # how many words of the arguments come in registers, and from where

    @classmethod
    def load(cls, elf: bytes) -> CodeObject:
        """Raises ValueError if there is no kernel in it."""
        program_at, sections_at = struct.unpack_from("<QQ", elf, 32)
        program_size, program_count, section_size, section_count = struct.unpack_from(
            "<HHHH", elf, 54
        )
        headers = [
            struct.unpack_from("<IIQQQQQQ", elf, program_at + at * program_size)
            for at in range(program_count)
        ]
        segments = [header for header in headers if header[0] == LOADED]
        memory = mmap.mmap(-1, (max(s[3] + s[6] for s in segments) + 8191) & ~4095)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for _, flags, offset, address, _, size, _, _ in segments:
            data = elf[offset : offset + size]
            ctypes.memmove(
                base + address, _without_caches(data) if flags & EXECUTABLE else data, size
            )
        sections = [
            struct.unpack_from("<IIQQQQIIQQ", elf, sections_at + at * section_size)
            for at in range(section_count)
        ]
        descriptor = _descriptor(elf, sections)
        lds, scratch, arguments = struct.unpack_from("<III", memory, descriptor)
        (offset,) = struct.unpack_from("<q", memory, descriptor + 16)
        (resources,) = struct.unpack_from("<I", memory, descriptor + 52)
        properties, preload = struct.unpack_from("<HH", memory, descriptor + 56)
        entry = base + descriptor + offset
        return cls(memory, entry, lds, scratch, arguments, resources, properties, preload)

    def scalar_registers(self, arguments: ctypes.Array[ctypes.c_char]) -> list[int]:
        """What the hardware puts into the first scalar registers of every wave."""
        address = ctypes.addressof(arguments)
        registers = [0] * 4 * bool(self.properties & PRIVATE_SEGMENT_BUFFER)
        registers += [0, 0] * bool(self.properties & DISPATCH_POINTER)
        registers += [0, 0] * bool(self.properties & QUEUE_POINTER)
        if self.properties & KERNARG_POINTER:
            registers += [address & 0xFFFFFFFF, address >> 32]
        count, first = self.preload & 0x7F, self.preload >> 7
        registers += struct.unpack_from(f"<{count}I", arguments, first * 4)
        return registers + [0] * (((self.resources >> 1) & 31) - len(registers))

    def resources_with(self, shared_size: int) -> int:
        """COMPUTE_PGM_RSRC2 with shared memory for what a launch asks for."""
        units = -(-max(self.lds_size, shared_size) // LDS_UNIT)
        return (self.resources & ~(LDS_MASK << LDS_SHIFT)) | units << LDS_SHIFT


def _descriptor(elf: bytes, sections: list[tuple[int, ...]]) -> int:
    """Where the descriptor of the kernel is loaded: the symbol that ends in .kd."""
    for section in sections:
        if section[1] not in SYMBOL_TABLES:
            continue
        names_at = sections[section[6]][4]
        for at in range(section[5] // 24):
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", elf, section[4] + at * 24)
            first = names_at + name
            if elf[first : elf.index(b"\0", first)].endswith(b".kd"):
                return value
    raise ValueError("the code object has no kernel")


def _without_caches(code: bytes) -> bytes:
    words = list(struct.unpack(f"<{len(code) // 4}I", code[: len(code) // 4 * 4]))
    for at, word in enumerate(words[:-1]):
        if word in CACHE_INVALIDATIONS:
            words[at] = words[at + 1] = NOP
    return struct.pack(f"<{len(words)}I", *words) + code[len(words) * 4 :]
