"""NVIDIA machine code, as the tools in Triton's wheel print it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import triton

from benchmarks.aot import ptx
from benchmarks.aot.figures import Figures, Loop

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# Hopper's matrix instructions are HGMMA and the like, Blackwell's UTCHMMA, the others' HMMA.
TENSOR = re.compile(r"^(?:[HIQO]G?MMA|UTC\w*MMA)")
SPILLS = ("LDL", "STL")
LOADS = ("LDG.", "LDGSTS")
BULK_LOADS = ("UTMALDG", "UBLKCP")
LABEL = re.compile(r"^(\.L_x_\d+):")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][\w.]*)")
TARGET = re.compile(r"`\((\.L_x_\d+)\)")


def figures(
    cubin: bytes, source: str, shared_bytes: int, weight: int | None, decodes: bool
) -> Figures:
    """source: the PTX. weight: position of the weight argument among the kernel's parameters.
    decodes: whether the inner loop is the one that decodes by byte permutes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", str(file))
        listing = _tool("nvdisasm", "-c", str(file)).splitlines()
    opcodes = _opcodes(listing)
    inner = max(inner_loops(listing), key=_permutes if decodes else _work, default=Counter[str]())
    return Figures(
        registers=int(_named("REG", usage)),
        spills=sum(n for opcode, n in opcodes.items() if opcode.startswith(SPILLS)),
        shared_bytes=shared_bytes,
        loads=_loads(opcodes),
        tensor={opcode: n for opcode, n in opcodes.items() if TENSOR.match(opcode)},
        inner=Loop(inner, _unrolled(inner, source)),
        weight_loads={} if weight is None else ptx.weight_loads(source, weight),
    )


def inner_loops(listing: Sequence[str]) -> list[Counter[str]]:
    """The loops that contain no other, each from its label to its branch back, by opcode."""
    labels = {match[1]: at for at, line in enumerate(listing) if (match := LABEL.match(line))}
    spans = []
    for at, line in enumerate(listing):
        match, target = INSTRUCTION.match(line), TARGET.search(line)
        # a branch to itself fills the end of every kernel
        if match and target and match[1].startswith("BRA") and labels[target[1]] < at - 1:
            spans.append((labels[target[1]], at))
    return [_opcodes(listing[first : last + 1]) for first, last in ptx.innermost(spans)]


def _opcodes(lines: Iterable[str]) -> Counter[str]:
    return Counter(match[1] for line in lines if (match := INSTRUCTION.match(line)))


def _permutes(loop: Counter[str]) -> int:
    return loop["PRMT"]


def _work(loop: Counter[str]) -> tuple[int, int]:
    return sum(n for opcode, n in loop.items() if TENSOR.match(opcode)), sum(loop.values())


def _unrolled(inner: Counter[str], source: str) -> int:
    """How often the PTX loop's body stands in the machine code's loop, told by its loads."""
    loads = sum(n for opcode, n in inner.items() if opcode.startswith((*LOADS, *BULK_LOADS)))
    fitting = [count for count in ptx.loads_of_loops(source) if count and loads % count == 0]
    return loads // max(fitting) if loads and fitting else 1


def _loads(opcodes: Mapping[str, int]) -> Counter[int]:
    widths: Counter[int] = Counter()
    for opcode, count in opcodes.items():
        if opcode.startswith(LOADS):
            parts = opcode.split(".")
            narrow = [part[1:] for part in parts if re.fullmatch(r"[US](8|16)", part)]
            wide = [part for part in parts if part in ("64", "128", "256")]
            widths[int((narrow or wide or ["32"])[0]) // 8] += count
        elif opcode.startswith(BULK_LOADS):
            widths[16] += count
    return widths


def _named(name: str, usage: str) -> str:
    match = re.search(rf"\b{name}:(\d+)", usage)
    if match is None:
        raise ValueError(f"cuobjdump did not print {name}: {usage!r}")
    return match[1]


def _tool(name: str, *arguments: str) -> str:
    run = subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{name} failed: {run.stderr.strip()}")
    return run.stdout
