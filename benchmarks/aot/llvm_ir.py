"""LLVM IR of an AMD kernel: loads through one of its arguments."""

from __future__ import annotations

import re
from collections import Counter

from benchmarks.aot.addresses import Instruction, reached_from

INSTRUCTION = re.compile(r"^\s*(?:(%[\w.$-]+) = )?(?:tail )?([a-z]+)\s+(.*)")
VALUE = re.compile(r"%[\w.$-]+")
CARRIES_ADDRESS = ("getelementptr", "phi", "select", "bitcast", "addrspacecast", "freeze")
MAKES_BUFFER = "llvm.amdgcn.make.buffer.rsrc"
LOADING_CALL = re.compile(
    r"llvm\.(?:masked\.load|amdgcn\.(?:raw\.ptr\.buffer\.load|global\.load\.lds))"
)
SCALAR = r"i8|i16|i32|i64|half|bfloat|float|double"
TYPE = re.compile(rf"<(\d+) x ({SCALAR})>|\b({SCALAR})\b")
BYTES = {"i8": 1, "i16": 2, "half": 2, "bfloat": 2, "i32": 4, "float": 4, "i64": 8, "double": 8}


def weight_loads(llir: str, parameter: int) -> Counter[int]:
    """Bytes -> loads from global memory whose address comes from the parameter at a position."""
    instructions = [
        Instruction(match[2], (match[1] or "", *VALUE.findall(match[3])), match[3])
        for line in llir.splitlines()
        if (match := INSTRUCTION.match(line))
    ]
    carriers = [
        each for each in instructions if each.opcode in CARRIES_ADDRESS or MAKES_BUFFER in each.text
    ]
    reached = reached_from({f"%{parameter}"}, carriers) - {""}
    widths = Counter(
        _width(each) for each in instructions if reached.intersection(each.operands[1:])
    )
    del widths[0]  # no loads
    return widths


def _width(instruction: Instruction) -> int:
    """Bytes a thread's load brings; 0: it is none."""
    if instruction.opcode == "load":
        return _bytes(instruction.text.split(", ptr")[0])
    if instruction.opcode == "call" and LOADING_CALL.search(instruction.text):
        if ".lds" in instruction.text:  # straight into shared memory: the size is an argument
            return int(re.findall(r"i32 (?:immarg )?(\d+)", instruction.text)[0])
        return _bytes(instruction.text.split("@")[0])
    return 0


def _bytes(text: str) -> int:
    match = TYPE.search(text)
    if match is None:
        return 8  # a pointer
    return int(match[1]) * BYTES[match[2]] if match[1] else BYTES[match[3]]
