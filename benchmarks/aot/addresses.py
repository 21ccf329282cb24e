"""Following an address through code: which registers hold one that began as a kernel argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Instruction(NamedTuple):
    """operands: the registers it names, in order; the first is written by those that write one."""

    opcode: str
    operands: tuple[str, ...]
    text: str


def reached_from(start: Iterable[str], carriers: Iterable[Instruction]) -> set[str]:
    """Every register that some carrier derives from those of start, loops included."""
    reached = set(start)
    waiting = [each for each in carriers if len(each.operands) > 1]
    while True:
        found = {each.operands[0] for each in waiting if reached.intersection(each.operands[1:])}
        if found <= reached:
            return reached
        reached |= found
