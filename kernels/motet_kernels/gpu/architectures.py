"""The GPU architectures that kernels are compiled for, and what they offer a block.

Shared memory a block may use: CUDA C++ Programming Guide, "Technical Specifications per Compute
Capability"; AMD's instruction set references for CDNA3 and RDNA3 (LDS of a workgroup).
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Architecture:
    """name: "sm_90", "gfx942"; backend: Triton's, "cuda" or "hip"."""

    name: str
    backend: str
    lanes: int  # threads that run in step: a warp, a wavefront
    shared_bytes: int  # most that one block may use
    # Rows from which Triton's tl.dot takes a matrix instruction of another kind (wgmma, tcgen05)
    # than for fewer; None: one kind for all. The order inside an instruction is not specified.
    wide_dot_rows: int | None = None

    @property
    def target(self) -> int | str:
        """What Triton's GPUTarget calls it: 90, "gfx942"."""
        return int(self.name.removeprefix("sm_")) if self.backend == "cuda" else self.name


ARCHITECTURES = {
    found.name: found
    for found in (
        Architecture("sm_80", "cuda", 32, 163 * KIB),  # A100
        Architecture("sm_86", "cuda", 32, 99 * KIB),  # A10, RTX 30
        Architecture("sm_89", "cuda", 32, 99 * KIB),  # L4, L40S, RTX 40
        Architecture("sm_90", "cuda", 32, 227 * KIB, wide_dot_rows=64),  # H100, H200
        Architecture("sm_100", "cuda", 32, 227 * KIB, wide_dot_rows=64),  # B200
        Architecture("gfx942", "hip", 64, 64 * KIB),  # MI300X
        Architecture("gfx1100", "hip", 32, 64 * KIB),  # RX 7900
    )
}
