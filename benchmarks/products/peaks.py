"""What this machine can do at most, measured: bytes read and products of bf16 per second."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.products.clock import Clock

_SOURCE = Path(__file__).with_name("peaks.cpp")
_SQUARES = (1024, 2048)


@dataclass(frozen=True)
class Peaks:
    read_bytes_per_s: float
    flops_per_s: float
    """The higher of a loop of dot products on registers and torch's bf16 product of squares."""
    dot_flops_per_s: float
    torch_flops_per_s: float
    instruction: str
    """Of the loop."""

    def better(self, other: Peaks) -> Peaks:
        """The higher of each: what else runs on a shared machine only ever takes away."""
        return Peaks(
            max(self.read_bytes_per_s, other.read_bytes_per_s),
            max(self.flops_per_s, other.flops_per_s),
            max(self.dot_flops_per_s, other.dot_flops_per_s),
            max(self.torch_flops_per_s, other.torch_flops_per_s),
            self.instruction,
        )


def measure_peaks(num_threads: int, clock: Clock) -> Peaks:
    """Raises RuntimeError without a C++ compiler."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise RuntimeError("the roofline is measured in C++ and there is no compiler; install g++")
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "peaks")
        flags = ("-std=c++17", "-O3", "-march=native", "-fopenmp")
        subprocess.run([compiler, *flags, str(_SOURCE), "-o", str(program)], check=True)
        said = subprocess.run(
            [str(program), str(num_threads)], check=True, capture_output=True, text=True
        ).stdout
    read, dot, instruction = said.split(maxsplit=2)
    by_torch = max(_square_flops_per_s(size, clock) for size in _SQUARES)
    by_dots = float(dot) * 1e9
    return Peaks(
        read_bytes_per_s=float(read) * 1e9,
        flops_per_s=max(by_dots, by_torch),
        dot_flops_per_s=by_dots,
        torch_flops_per_s=by_torch,
        instruction=instruction.strip(),
    )


def _square_flops_per_s(size: int, clock: Clock) -> float:
    x, weight = (torch.randn(size, size).to(torch.bfloat16) for _ in range(2))
    with torch.inference_mode():
        (seconds,) = clock.best([lambda: F.linear(x, weight)])
    return 2 * size**3 / seconds
