"""The adapters' kernels as they are launched: see kernel_specs.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from motet_kernels.gpu.inner_stage import inner_kernel
from motet_kernels.gpu.kernel_specs import KernelSpec, Kind
from motet_kernels.gpu.lowrank_kernels import expand_kernel, scale_rows_kernel, shrink_kernel
from motet_kernels.gpu.lowrank_product import CORE_BLOCK, SCALE_BLOCK, TRITON_DTYPES
from motet_kernels.gpu.lowrank_row_kernels import expand_row_kernel, shrink_row_kernel
from motet_kernels.gpu.tiles import TILE_ROWS
from motet_kernels.gpu.tuning import LowRankConfig, TuningTable

DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

# What a launch over q, k, v of a model with K = 4096 hands over at rank 16.
MEMBERS, IN_FEATURES, SPLIT, RANKS = 3, 4096, 4, 16

TABLES = {
    "tiles": "*i32",
    "rows": "*i32",
    "pointers": "*i64",
    "planes": "*fp32",
    "sizes": "*i32",
    "base_bias": "*fp32",
}
NUMBERS = ("in_features", "x_stride", "y_stride", "z_stride", "out_stride")


def specs(tuning: TuningTable) -> list[KernelSpec]:
    """Every kernel of the adapter half, for each of its configurations and dtypes."""
    return [spec for config in tuning.configs("lowrank") for spec in _specs_of(config)]


def _specs_of(config: LowRankConfig) -> Iterator[KernelSpec]:
    shared = {"SPLIT": SPLIT, "NUM_MEMBERS": MEMBERS, "RANKS": RANKS}
    blocks = {"BLOCK_R": config.block_ranks, **shared}
    shrink = {
        "PART": IN_FEATURES // SPLIT,
        "BLOCK_K": config.block_inputs,
        "ALIGNED": True,
        **blocks,
    }
    expand = {"BLOCK_N": config.block_outputs, "ALIGNED": True, "HAS_BASE_BIAS": True, **blocks}
    inner = {"BLOCK_C": CORE_BLOCK, "BLOCK_T": TILE_ROWS, **blocks}
    scale = {"ALIGNED": True, "BLOCK_K": SCALE_BLOCK}
    tile = {"BLOCK_T": TILE_ROWS}
    for dtype, short in DTYPES.items():
        # bf16 is what is served; the tensor cores' use is gated there
        kind: Kind = "tile" if dtype == torch.bfloat16 else "lowrank"
        yield _spec(f"shrink {short}", shrink_kernel, kind, short, shrink | tile, config)
        yield _spec(f"expand {short}", expand_kernel, kind, short, expand | tile, config)
        yield _spec(f"shrink_row {short}", shrink_row_kernel, "lowrank", short, shrink, config)
        yield _spec(f"expand_row {short}", expand_row_kernel, "lowrank", short, expand, config)
        typed = inner | {"DTYPE": TRITON_DTYPES[dtype]}
        yield _spec(f"inner {short}", inner_kernel, "lowrank", short, typed, config)
        yield _spec(f"scale_rows {short}", scale_rows_kernel, "lowrank", short, scale, config)


def _spec(
    name: str,
    kernel: Any,
    kind: Kind,
    dtype: str,
    constants: Mapping[str, Any],
    config: LowRankConfig,
) -> KernelSpec:
    arguments = {
        argument: TABLES.get(argument, "i32" if argument in NUMBERS else f"*{dtype}")
        for argument in kernel.arg_names
        if argument not in constants
    }
    return KernelSpec(
        f"{name} ranks={config.block_ranks} outputs={config.block_outputs}",
        kernel,
        kind,
        arguments,
        constants,
        frozenset(arguments),
        config.num_warps,
        config.num_stages,
    )
