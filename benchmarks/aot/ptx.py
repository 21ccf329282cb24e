"""PTX: loads through one of a kernel's arguments, and what its loops load."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.aot.addresses import Instruction, reached_from

INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)\s+(.*);")
ADDRESS_REGISTER = re.compile(r"%rd\d+")
LABEL = re.compile(r"^(\$\w+):")
BRANCH = re.compile(r"\bbra(?:\.uni)?\s+(\$\w+);")
CARRIES_ADDRESS = ("mov.b64", "mov.u64", "add", "sub", "mad", "cvta", "selp", "or.b64")
WIDTH = re.compile(r"(?:\.v([248]))?\.[busf](8|16|32|64|128)$")
LOADS = ("ld.global", "cp.async.ca", "cp.async.cg", "cp.async.bulk")


def weight_loads(ptx: str, parameter: int) -> Counter[int]:
    """Bytes -> loads from global memory whose address comes from the parameter at a position."""
    instructions = [
        Instruction(match[1], tuple(ADDRESS_REGISTER.findall(match[2])), match[2])
        for line in ptx.splitlines()
        if (match := INSTRUCTION.match(line))
    ]
    named = re.compile(rf"\[\w+_param_{parameter}(?:\+0)?\]")
    start = {
        each.operands[0]
        for each in instructions
        if each.opcode.startswith("ld.param") and each.operands and named.search(each.text)
    }
    carriers = [each for each in instructions if each.opcode.startswith(CARRIES_ADDRESS)]
    reached = reached_from(start, carriers)
    return Counter(
        _width(each)
        for each in instructions
        if each.opcode.startswith(LOADS) and each.operands and each.operands[-1] in reached
    )


def loads_of_loops(ptx: str) -> list[int]:
    """Loads from global memory in each loop that contains no other."""
    lines = ptx.splitlines()
    labels = {match[1]: at for at, line in enumerate(lines) if (match := LABEL.match(line))}
    spans = [
        (labels[match[1]], at)
        for at, line in enumerate(lines)
        if (match := BRANCH.search(line)) and labels[match[1]] < at
    ]
    return [
        sum(
            match[1].startswith(LOADS)
            for line in lines[first:last]
            if (match := INSTRUCTION.match(line))
        )
        for first, last in innermost(spans)
    ]


def innermost(spans: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """The spans that contain no other."""
    for first, last in spans:
        if not any((first, last) != (a, b) and first <= a and b <= last for a, b in spans):
            yield first, last


def _width(instruction: Instruction) -> int:
    if instruction.opcode.startswith("cp.async.bulk"):
        return 16  # a whole tile by one instruction: never less
    if instruction.opcode.startswith("cp.async"):
        size = re.findall(r"0x[0-9a-f]+|\b\d+\b", instruction.text.rsplit("]", 1)[1])[0]
        return int(size, 0)
    match = WIDTH.search(instruction.opcode)
    if match is None:
        raise ValueError(f"a load of unknown width: {instruction.opcode}")
    return int(match[1] or 1) * int(match[2]) // 8
