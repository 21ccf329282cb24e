"""A linear on bf16 weights, compiled to count what an engine that keeps them so has to issue.

Triton, like ours, and with the rows as columns of the second operand, like ours: what is compared
is what decoding costs, not who wrote the better matrix product.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl
from motet_kernels.gpu.kernel_specs import KernelSpec

BLOCK_K = 64
OUTPUTS = 64
NUM_WARPS, NUM_STAGES = 4, 4


@triton.jit
def bf16_linear_kernel(
    x,  # bfloat16 [T, K]
    weight,  # bfloat16 [N, K]
    y,  # bfloat16 [T, N]
    num_tokens,
    out_features,  # N, a multiple of BLOCK_N
    IN_FEATURES: tl.constexpr,  # K, a multiple of BLOCK_K
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[t] = W x[t]. Grid (row tiles, output tiles)."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_N, BLOCK_T), dtype=tl.float32)
    for first in range(0, IN_FEATURES, BLOCK_K):
        w = tl.load(weight + n[:, None] * IN_FEATURES + (first + k)[None, :])
        columns = tl.load(
            x + t[None, :] * IN_FEATURES + (first + k)[:, None],
            mask=(t < num_tokens)[None, :],
            other=0.0,
        )
        acc = tl.dot(w, columns, acc)
    place = y + t[:, None] * out_features + n[None, :]
    tl.store(place, tl.trans(acc).to(tl.bfloat16), mask=(t < num_tokens)[:, None])


def bf16_spec(block_rows: int) -> KernelSpec:
    """The linear for tiles of so many rows, as a launch would have it compiled."""
    arguments = {"x": "*bf16", "weight": "*bf16", "y": "*bf16", "num_tokens": "i32",
                 "out_features": "i32"}  # fmt: skip
    return KernelSpec(
        f"bf16_linear rows={block_rows}",
        bf16_linear_kernel,
        "tile",
        arguments,
        {"IN_FEATURES": 4096, "BLOCK_T": block_rows, "BLOCK_N": OUTPUTS, "BLOCK_K": BLOCK_K},
        frozenset(arguments) - {"num_tokens"},
        NUM_WARPS,
        NUM_STAGES,
        weights_per_trip=OUTPUTS * BLOCK_K,
    )
