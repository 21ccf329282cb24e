"""Kernels that each break one of the gates on compiled kernels, and one that breaks none.

Listed like the real ones, so that `python -m benchmarks.aot --areas tests.support.planted_kernels`
has to find them out.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from motet_kernels.gpu.kernel_specs import KernelSpec
from motet_kernels.gpu.tuning import TuningTable


@triton.jit
def product(
    x,  # bfloat16 [16, K]
    codes,  # uint8 [N, K / 2]
    y,  # float32 [16, N]
    n,
    row_bytes,  # K / 2
    BLOCK_N: tl.constexpr,
    BLOCK_J: tl.constexpr,
    DOT: tl.constexpr,
):
    """y = x W, the two codes of a byte being the weights themselves."""
    rows = tl.arange(0, 16)
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.arange(0, BLOCK_J)
    acc = tl.zeros((16, BLOCK_N), tl.float32)
    for first in range(0, row_bytes, BLOCK_J):
        packed = tl.load(codes + outputs[:, None] * row_bytes + first + j[None, :])
        a = tl.load(x + rows[:, None] * (2 * row_bytes) + first + j[None, :])
        w = (packed & 15).to(tl.bfloat16)
        if DOT:
            acc = tl.dot(a, tl.trans(w), acc)
        else:
            acc += tl.sum(a.to(tl.float32)[:, None, :] * w.to(tl.float32)[None, :, :], axis=2)
    tl.store(y + rows[:, None] * n + outputs[None, :], acc)


@triton.jit
def hoarder(x, y, n, BLOCK: tl.constexpr, SUMS: tl.constexpr):
    """Keeps SUMS running sums of a block each, all of which the next trip needs."""
    at = tl.arange(0, BLOCK)
    sums = ()
    for s in tl.static_range(SUMS):
        sums = sums + (tl.load(x + s * BLOCK + at),)  # noqa: RUF005
    for first in range(n):
        new = ()
        for s in tl.static_range(SUMS):
            value = sums[s] * tl.load(x + first * SUMS + s) + sums[(s * 7 + 3) % SUMS]
            new = new + (value,)  # noqa: RUF005
        sums = new
    for s in tl.static_range(SUMS):
        tl.store(y + s * BLOCK + at, sums[s])


def _product(name: str, **changes: Any) -> KernelSpec:
    constexprs = {"BLOCK_N": 128, "BLOCK_J": 32, "DOT": True} | changes.pop("constexprs", {})
    fields: dict[str, Any] = {
        "name": name,
        "kernel": product,
        "kind": "tile",
        "arguments": {"x": "*bf16", "codes": "*u8", "y": "*fp32", "n": "i32", "row_bytes": "i32"},
        "constexprs": constexprs,
        "aligned": frozenset({"x", "codes", "y", "n", "row_bytes"}),
        "num_warps": 4,
        "num_stages": 3,
        "weight": "codes",
        "weights_per_trip": 128 * 32,
    }
    return KernelSpec(**(fields | changes))


def _hoarder(name: str, backend: str, **few_registers: int) -> KernelSpec:
    return KernelSpec(
        name,
        hoarder,
        "copy",
        {"x": "*fp32", "y": "*fp32", "n": "i32"},
        {"BLOCK": 1024, "SUMS": 6},
        frozenset({"x", "y"}),
        num_warps=1,
        num_stages=1,
        backends=(backend,),
        options=few_registers,
    )


def specs(tuning: TuningTable) -> list[KernelSpec]:
    unaligned = frozenset({"x", "y", "n"})
    return [
        _product("sound"),
        _product("narrow", aligned=unaligned),
        _product("without tensor cores", constexprs={"DOT": False, "BLOCK_N": 32}, num_warps=2,
                 backends=("cuda",)),
        _product("weights not found", weight="y"),
        _product("greedy", constexprs={"BLOCK_N": 256, "BLOCK_J": 128}, num_warps=8, num_stages=8,
                 backends=("cuda",)),
        _product("wasteful", prmt=True, weights_per_trip=32),
        _product("uncounted", prmt=True, weights_per_trip=0),
        _product("of another type", arguments={
            "x": "*bf16", "codes": "*u8", "y": "*fp32", "n": "i32", "row_bytes": "i64"}),
        _hoarder("spills", "cuda", maxnreg=32),
        _hoarder("spills on AMD", "hip", waves_per_eu=8),
    ]  # fmt: skip
