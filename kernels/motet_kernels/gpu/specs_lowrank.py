"""The adapters' kernels as they are launched: see kernel_specs.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from motet_kernels.gpu.inner_stage import inner_kernel
from motet_kernels.gpu.kernel_specs import KernelSpec, Kind
from motet_kernels.gpu.lowrank_kernels import expand_kernel, scale_rows_kernel, shrink_kernel
from motet_kernels.gpu.lowrank_product import (
    CORE_BLOCK,
    SCALE_BLOCK,
    TRITON_DTYPES,
    num_splits,
    part_len,
)
from motet_kernels.gpu.lowrank_row_kernels import expand_row_kernel, shrink_row_kernel
from motet_kernels.gpu.tiles import TILE_ROWS
from motet_kernels.gpu.tuning import LowRankConfig, TuningTable

DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

TABLES = {
    "tiles": "*i32",
    "rows": "*i32",
    "pointers": "*i64",
    "planes": "*fp32",
    "sizes": "*i32",
    "base_bias": "*fp32",
}
NUMBERS = ("in_features", "x_stride", "y_stride", "z_stride", "out_stride")


class _Group(NamedTuple):
    """Linears that share an input, and the room for their adapters' ranks."""

    name: str
    num_members: int
    in_features: int
    ranks: int
    aligned: bool  # whether loads may be wide


# Of a model with 4096 and 14336 features; then what nothing but an odd shape brings about.
QKV = _Group("qkv", 3, 4096, 16, aligned=True)
DOWN = _Group("down", 1, 14336, 64, aligned=True)
ODD = _Group("odd", 1, 1001, 16, aligned=False)


def specs(tuning: TuningTable) -> list[KernelSpec]:
    """Every kernel of the adapter half, for each of its configurations and dtypes."""
    return [spec for config in tuning.configs("lowrank") for spec in _specs_of(config)]


def _specs_of(config: LowRankConfig) -> Iterator[KernelSpec]:
    for dtype in DTYPES:
        yield from _group_specs(QKV, dtype, config)
    yield from _group_specs(DOWN, torch.bfloat16, config)
    yield from _group_specs(ODD, torch.bfloat16, config)


def _group_specs(group: _Group, dtype: torch.dtype, config: LowRankConfig) -> Iterator[KernelSpec]:
    blocks = {
        "SPLIT": num_splits(group.in_features, config),
        "NUM_MEMBERS": group.num_members,
        "RANKS": group.ranks,
        "BLOCK_R": config.block_ranks,
    }
    wide = {"ALIGNED": group.aligned}
    shrink = {
        "PART": part_len(group.in_features, config),
        "BLOCK_K": config.block_inputs,
        **wide,
        **blocks,
    }
    expand = {
        "BLOCK_N": config.block_outputs,
        "HAS_BASE_BIAS": group.num_members > 1,
        **wide,
        **blocks,
    }
    inner = {"BLOCK_C": CORE_BLOCK, "DTYPE": TRITON_DTYPES[dtype], **blocks}
    tile = {"BLOCK_T": TILE_ROWS}
    # bf16 is what is served: there, the use of tensor cores is gated
    kind: Kind = "tile" if dtype == torch.bfloat16 else "lowrank"
    kernels: list[tuple[Any, Mapping[str, Any], Kind]] = [
        (shrink_kernel, shrink | tile, kind),
        (expand_kernel, expand | tile, kind),
        (shrink_row_kernel, shrink, "lowrank"),
        (expand_row_kernel, expand, "lowrank"),
        (inner_kernel, inner | tile, "lowrank"),
        (scale_rows_kernel, wide | {"BLOCK_K": SCALE_BLOCK}, "lowrank"),
    ]
    for kernel, constants, its_kind in kernels:
        yield _spec(kernel, its_kind, group, dtype, constants, config)


def _spec(
    kernel: Any,
    kind: Kind,
    group: _Group,
    dtype: torch.dtype,
    constants: Mapping[str, Any],
    config: LowRankConfig,
) -> KernelSpec:
    short = DTYPES[dtype]
    arguments = {
        argument: TABLES.get(argument, "i32" if argument in NUMBERS else f"*{short}")
        for argument in kernel.arg_names
        if argument not in constants
    }
    numbers = set() if group.aligned else set(NUMBERS)
    return KernelSpec(
        f"{kernel.__name__.removesuffix('_kernel')} {group.name} {short} "
        f"inputs={config.block_inputs} ranks={config.block_ranks} "
        f"outputs={config.block_outputs} warps={config.num_warps}x{config.num_stages}",
        kernel,
        kind,
        arguments,
        constants,
        frozenset(set(arguments) - numbers),
        config.num_warps,
        config.num_stages,
    )
