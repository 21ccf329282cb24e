"""Compiles shrink and expand for real GPUs, on a machine that need not have one.

A program of its own, run without TRITON_INTERPRET: `python -m tests.support.compiled_kernels`.
"""

from __future__ import annotations

from typing import Any

import triton
from motet_kernels.gpu.lowrank_kernels import expand_kernel, shrink_kernel
from motet_kernels.gpu.lowrank_product import BLOCK_K, BLOCK_N, BLOCK_R
from motet_kernels.gpu.tiles import TILE_ROWS
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = (GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64))

POINTERS = {"planes": "*fp32", "tiles": "*i32", "pointers": "*i64", "base_bias": "*fp32"}


def compile_kernel(kernel: Any, target: GPUTarget, data: dict[str, str], **constants: int) -> None:
    """Compile for `target`; numbers that are no constants are 32-bit integers."""
    signature = {
        name: "constexpr" if name in constants else (POINTERS | data).get(name, "i32")
        for name in kernel.arg_names
    }
    triton.compile(ASTSource(kernel, signature, constexprs=constants), target=target)


def main() -> None:
    for target in TARGETS:
        for dtype in ("bf16", "fp32"):
            sizes = {"BLOCK_T": TILE_ROWS, "BLOCK_R": BLOCK_R}
            compile_kernel(shrink_kernel, target, {"x": f"*{dtype}"}, **sizes, BLOCK_K=BLOCK_K)
            for biased in (0, 1):
                constants = {"SPLIT": 4, "HAS_BASE_BIAS": biased, "BLOCK_N": BLOCK_N}
                compile_kernel(expand_kernel, target, {"y": f"*{dtype}"}, **sizes, **constants)


if __name__ == "__main__":
    main()
