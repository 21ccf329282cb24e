"""AMD machine code, as LLVM writes it out."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from benchmarks.aot import llvm_ir
from benchmarks.aot.figures import Figures, Loop

TENSOR = re.compile(r"^v_(?:smfmac|mfma|wmma|swmmac)_")
INSTRUCTION = re.compile(r"^\t([a-z]\w*)(?:\s|$)")
BLOCK = re.compile(r"^(?:\.LBB(\d+_\d+):|; %bb\.\d+:)")
IN_LOOP = re.compile(r"in Loop: Header=BB(\d+_\d+)")
LOAD = re.compile(r"^(?:global|buffer|flat)_load_(\w+)$")
WIDTHS = {"dword": 4, "b32": 4, "dwordx2": 8, "b64": 8, "dwordx3": 12, "b96": 12}
WIDTHS |= {"dwordx4": 16, "b128": 16, "ushort": 2, "sshort": 2, "short": 2, "u16": 2, "i16": 2}
WIDTHS |= {"b16": 2, "ubyte": 1, "sbyte": 1, "u8": 1, "i8": 1, "b8": 1}


def figures(assembly: str, source: str, shared_bytes: int, weight: int | None) -> Figures:
    """source: the LLVM IR. weight: position of the weight argument among the parameters."""
    opcodes = _opcodes(assembly.splitlines())
    inner = max(inner_loops(assembly), key=_work, default=Counter[str]())
    return Figures(
        registers=_stated("vgpr_count", assembly),
        spills=_stated("vgpr_spill_count", assembly) + _stated("sgpr_spill_count", assembly),
        shared_bytes=shared_bytes,
        loads=_loads(opcodes),
        tensor={opcode: n for opcode, n in opcodes.items() if TENSOR.match(opcode)},
        inner=Loop(inner),
        weight_loads={} if weight is None else llvm_ir.weight_loads(source, weight),
    )


def inner_loops(assembly: str) -> list[Counter[str]]:
    """The loops that contain no other, by opcode, told by LLVM's comments at each block."""
    loops: defaultdict[str, Counter[str]] = defaultdict(Counter)
    inner: set[str] = set()
    block = loop = None
    for line in assembly.splitlines():
        started = BLOCK.match(line)
        if started:
            member = IN_LOOP.search(line)
            block, loop = started[1], member[1] if member else None
        # the header of a nested loop says so on a line below its label
        if block and "Loop Header: Depth=" in line and ";" in line:
            loop = block
            if "Inner Loop Header" in line:
                inner.add(block)
        match = INSTRUCTION.match(line)
        if loop and match:
            loops[loop][match[1]] += 1
    return [loops[header] for header in sorted(inner)]


def _opcodes(lines: Iterable[str]) -> Counter[str]:
    return Counter(match[1] for line in lines if (match := INSTRUCTION.match(line)))


def _work(loop: Counter[str]) -> tuple[int, int]:
    return sum(n for opcode, n in loop.items() if TENSOR.match(opcode)), sum(loop.values())


def _loads(opcodes: Mapping[str, int]) -> Counter[int]:
    widths: Counter[int] = Counter()
    for opcode, count in opcodes.items():
        match = LOAD.match(opcode)
        if match:
            widths[next(WIDTHS[part] for part in match[1].split("_") if part in WIDTHS)] += count
    return widths


def _stated(name: str, assembly: str) -> int:
    match = re.search(rf"^\s*\.{name}:\s+(\d+)", assembly, re.MULTILINE)
    if match is None:
        raise ValueError(f"the assembly does not state {name}")
    return int(match[1])
