"""The NF4 kernels as they are launched: see kernel_specs.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from motet_kernels.gpu.architectures import ARCHITECTURES
from motet_kernels.gpu.kernel_specs import KernelSpec
from motet_kernels.gpu.lowrank_product import FEW_ROWS
from motet_kernels.gpu.nf4_dequantize_kernel import nf4_dequantize_kernel
from motet_kernels.gpu.nf4_gemv_kernel import BLOCKS_PER_TRIP as GEMV_BLOCKS
from motet_kernels.gpu.nf4_gemv_kernel import nf4_gemv_kernel
from motet_kernels.gpu.nf4_linear import (
    DEQUANTIZE_BLOCKS,
    DEQUANTIZE_OUTPUTS,
    DEQUANTIZE_WARPS,
    GEMV_STAGES,
    matrix_options,
    tiles_fit,
)
from motet_kernels.gpu.nf4_tile_kernel import BLOCKS_PER_TRIP as TILE_BLOCKS
from motet_kernels.gpu.nf4_tile_kernel import nf4_tile_kernel
from motet_kernels.gpu.tuning import GemvConfig, TuningTable
from motet_kernels.nf4 import BLOCK_LEN

# What a server computes in.
DTYPES = {torch.bfloat16: "bf16", torch.float32: "fp32"}

# Inputs of the linears that are compiled: those of q, k, v of a large model, and some that are no
# multiple of 64.
USUAL, CROSSED = 4096, 2000

# What the adapters of such a step bring.
SHRUNK = {"SPLIT": 4, "RANKS": 16, "ALIGNED": True, "BLOCK_R": 16}

TABLES = {
    "codes": "*u8",
    "absmax": "*fp32",
    "sizes": "*i32",
    "bias": "*fp32",
    "rows": "*i32",
    "pointers": "*i64",
    "planes": "*fp32",
    "num_tokens": "i32",
    "out_features": "i32",
}


def specs(tuning: TuningTable) -> list[KernelSpec]:
    """Every kernel of the base half, for each of its configurations and dtypes."""
    cuda = ARCHITECTURES[tuning.architecture].backend == "cuda"
    return [*_tiles(tuning, cuda), *_gemvs(tuning, cuda), *_dequantizers()]


def _tiles(tuning: TuningTable, cuda: bool) -> Iterator[KernelSpec]:
    for config in tuning.configs("linear"):
        blocks = {"BLOCK_T": config.block_rows, "BLOCK_N": config.block_outputs}
        for dtype, short, in_features, adapted in _variants():
            usual = in_features == USUAL and dtype == torch.bfloat16
            if not usual and config != tuning.linear(1, 1):
                continue  # never launched, as is what follows
            if not tiles_fit(dtype, hip=not cuda):
                continue
            constants = _constants(in_features, adapted, cuda, dtype) | blocks
            yield KernelSpec(
                f"nf4_tile {short} rows={config.block_rows} outputs={config.block_outputs}"
                + _suffix(in_features, adapted),
                nf4_tile_kernel,
                # float32 is multiplied without tensor cores, which would round it
                "gemv" if dtype == torch.float32 else "tile",
                _arguments(nf4_tile_kernel, constants, short),
                constants,
                _aligned(nf4_tile_kernel, constants),
                config.num_warps,
                config.num_stages,
                weight="codes",
                weights_per_trip=config.block_outputs * BLOCK_LEN * TILE_BLOCKS,
                # where K is no multiple of 64, every block is multiplied twice, once a scale
                prmt=constants["PERMUTE"] and in_features != CROSSED,
                options=matrix_options(hip=not cuda),
            )


def _gemvs(tuning: TuningTable, cuda: bool) -> Iterator[KernelSpec]:
    for config in tuning.configs("gemv"):
        for num_rows in (1, 2, FEW_ROWS):
            for dtype, short, in_features, adapted in _variants():
                constants = _constants(in_features, adapted, cuda, dtype)
                constants |= {"ROWS": num_rows, "BLOCK_N": config.block_outputs}
                yield _gemv(config, num_rows, short, constants, _suffix(in_features, adapted))


def _gemv(
    config: GemvConfig, num_rows: int, dtype: str, constants: Mapping[str, Any], suffix: str
) -> KernelSpec:
    return KernelSpec(
        f"nf4_gemv {dtype} rows={num_rows} outputs={config.block_outputs}{suffix}",
        nf4_gemv_kernel,
        "gemv",
        _arguments(nf4_gemv_kernel, constants, dtype),
        constants,
        _aligned(nf4_gemv_kernel, constants),
        config.num_warps,
        num_stages=GEMV_STAGES,
        weight="codes",
        weights_per_trip=config.block_outputs * BLOCK_LEN * GEMV_BLOCKS,
    )


def _dequantizers() -> Iterator[KernelSpec]:
    for short in DTYPES.values():
        for in_features in (USUAL, CROSSED):
            constants = {
                "IN_FEATURES": in_features,
                "CROSSED": in_features % BLOCK_LEN != 0,
                "NUM_MEMBERS": 3,
                "BLOCK_N": DEQUANTIZE_OUTPUTS,
                "BLOCK_B": DEQUANTIZE_BLOCKS,
            }
            yield KernelSpec(
                f"nf4_dequantize {short}{_suffix(in_features, True)}",
                nf4_dequantize_kernel,
                "dequantize",
                _arguments(nf4_dequantize_kernel, constants, short),
                constants,
                _aligned(nf4_dequantize_kernel, constants),
                num_warps=DEQUANTIZE_WARPS,
                num_stages=1,
                weight="codes",
            )


def _variants() -> Iterator[tuple[torch.dtype, str, int, bool]]:
    """What is served is compiled with adapters and without, the rest once."""
    yield torch.bfloat16, "bf16", USUAL, True
    yield torch.bfloat16, "bf16", USUAL, False
    yield torch.bfloat16, "bf16", CROSSED, True
    yield torch.float32, "fp32", USUAL, True


def _suffix(in_features: int, adapted: bool) -> str:
    crossed = " crossed" if in_features == CROSSED else ""
    return crossed + ("" if adapted else " base")


def _constants(in_features: int, adapted: bool, cuda: bool, dtype: torch.dtype) -> dict[str, Any]:
    return {
        **SHRUNK,
        "IN_FEATURES": in_features,
        "CROSSED": in_features % BLOCK_LEN != 0,
        "SIZES_DIVISOR": 16,
        "NUM_MEMBERS": 3,
        "ADAPTED": adapted,
        "PERMUTE": cuda and dtype.itemsize == 2,
    }


def _arguments(kernel: Any, constants: Mapping[str, Any], dtype: str) -> dict[str, str]:
    names = [name for name in kernel.arg_names if name not in constants]
    return {name: TABLES.get(name, f"*{dtype}") for name in names}


def _aligned(kernel: Any, constants: Mapping[str, Any]) -> frozenset[str]:
    """All but the number of rows, which is what it is."""
    return frozenset(kernel.arg_names) - constants.keys() - {"num_tokens"}
