"""What can be read of a compiled kernel without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Loop:
    """The instructions of one trip through a loop that contains no other, by opcode."""

    opcodes: Mapping[str, int]
    # How often the source's loop body stands in it: what the last compiler unrolled.
    unrolled: int = 1

    @property
    def instructions(self) -> int:
        return sum(self.opcodes.values())

    def count(self, *prefixes: str) -> int:
        """Instructions whose opcode begins with one of prefixes."""
        return sum(n for opcode, n in self.opcodes.items() if opcode.startswith(prefixes))


@dataclass(frozen=True)
class Figures:
    """Static figures of one compilation for one architecture.

    registers: of a thread; on AMD vector registers. spills: instructions that move a register to
    memory and back (NVIDIA), or registers spilled (AMD). loads: bytes a thread's load instruction
    brings from global memory -> how many such instructions. weight_loads: the same of loads
    through the spec's weight argument, found by following the address from the argument.
    tensor: matrix instructions by opcode.
    """

    registers: int
    spills: int
    shared_bytes: int
    loads: Mapping[int, int]
    tensor: Mapping[str, int]
    inner: Loop
    weight_loads: Mapping[int, int] = field(default_factory=Counter)

    def instructions_per_weight(self, threads: int, weights_per_trip: int) -> float:
        """Instructions that lanes issue in the inner loop for one decoded weight.

        threads: of a program. An instruction is issued for each of them, whatever it does there.
        """
        return self.inner.instructions * threads / (self.inner.unrolled * weights_per_trip)
