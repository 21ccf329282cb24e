"""The base half of linears, NF4: which kernel computes how many rows, and how it is launched."""

from __future__ import annotations

from typing import Any, Literal

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from motet_kernels.gpu.dense_product import product_in_blocks
from motet_kernels.gpu.lowrank_product import FEW_ROWS, LowRankProduct, Shrunk
from motet_kernels.gpu.nf4_dequantize_kernel import nf4_dequantize_kernel
from motet_kernels.gpu.nf4_gemv_kernel import nf4_gemv_kernel
from motet_kernels.gpu.nf4_layout import PackedNf4
from motet_kernels.gpu.nf4_tile_kernel import nf4_tile_kernel
from motet_kernels.gpu.output_tiles import num_output_tiles
from motet_kernels.gpu.tiles import Tiles
from motet_kernels.gpu.tuning import TuningTable

# Rows from which `fast_math` writes the weight out and leaves the product to the matrix library.
# Writing it and reading it back moves 4 bytes a weight, beside the half byte of its codes, however
# many rows there are; decoding it in the product is work that every tile of rows repeats.
MANY_ROWS = 256

# Outputs and blocks of 64 inputs that a program of the dequantiser writes: 16 bytes of codes for
# each thread of two wavefronts.
DEQUANTIZE_OUTPUTS = 16
DEQUANTIZE_BLOCKS = 4
DEQUANTIZE_WARPS = 2

GEMV_STAGES = 2  # of the inner loop

Path = Literal["tile", "gemv", "dequantize"]


def path_of(num_rows: int, *, fast_math: bool, tiled: bool = True) -> Path:
    """Which kernel computes a linear.

    Few rows and many are computed otherwise for fast_math alone: the tile kernel is what gives a
    row the same bits for any number of rows. tiled: whether it runs here (`tiles_fit`).
    """
    if fast_math and num_rows <= FEW_ROWS:
        return "gemv"
    if not tiled or (fast_math and num_rows >= MANY_ROWS):
        return "dequantize"
    return "tile"


def tiles_fit(dtype: torch.dtype, *, hip: bool) -> bool:
    """Whether the tile kernel serves a dtype. On AMD float32 would not fit the registers of its
    smallest tile (seen in compiled kernels)."""
    return not (hip and dtype == torch.float32)


class Nf4Product:
    """W z of NF4 weights with the adapters on top, on one device.

    Without fast_math a row's bits depend on the row alone: each output is the sum over blocks of 64
    inputs in order, in float32, whatever else is in the batch. How many rows a program takes may
    depend on their number, because the rows are the columns of the matrix instructions' second
    operand: which instruction is chosen, and how many inputs it adds up, is decided by outputs and
    warps, and those by the linear's size.
    """

    def __init__(
        self, tuning: TuningTable, lowrank: LowRankProduct, *, fast_math: bool = False
    ) -> None:
        self._tuning = tuning
        self._lowrank = lowrank
        self._fast_math = fast_math

    def __call__(
        self, z: Tensor, weight: PackedNf4, bias: Tensor, shrunk: Shrunk | None, tiles: Tiles
    ) -> Tensor:
        """gain * (W z + delta_gain * B u) + adapter bias + bias, [T, N] in z's dtype.

        z [T, K], contiguous, T at least one; bias float32 [N]; shrunk: u of the rows on the
        weight's members, None where no row has an adapter.
        """
        tiled = tiles_fit(z.dtype, hip=_on_hip(z))
        path = path_of(z.shape[0], fast_math=self._fast_math, tiled=tiled)
        if path == "gemv":
            return self._gemv(z, weight, bias, shrunk)
        if path == "tile":
            return self._tiles(z, weight, bias, shrunk)
        product = F.linear if self._fast_math else product_in_blocks
        y = product(z, dequantized(weight, z.dtype))
        if shrunk is None:
            return (y.float() + bias).to(z.dtype)
        return self._lowrank.expand(y, shrunk, tiles, bias)

    def _tiles(self, z: Tensor, weight: PackedNf4, bias: Tensor, shrunk: Shrunk | None) -> Tensor:
        y = torch.empty(z.shape[0], weight.out_features, dtype=z.dtype, device=z.device)
        config = self._tuning.linear(z.shape[0], weight.out_features)
        # those of one row, lest a table gives others for many: see the class
        instruction = self._tuning.linear(1, weight.out_features)
        if weight.crossed or z.dtype == torch.float32:  # these want twice the registers
            config = instruction = self._tuning.linear(1, 1)
        grid = (
            triton.cdiv(z.shape[0], config.block_rows),
            num_output_tiles(weight.sizes, instruction.block_outputs),
        )
        nf4_tile_kernel[grid](
            *_tensors(z, y, weight, bias, shrunk),
            **_constants(z, weight, shrunk),
            BLOCK_T=config.block_rows,
            BLOCK_N=instruction.block_outputs,
            num_warps=instruction.num_warps,
            num_stages=config.num_stages,
            **matrix_options(hip=_on_hip(z)),
        )
        return y

    def _gemv(self, z: Tensor, weight: PackedNf4, bias: Tensor, shrunk: Shrunk | None) -> Tensor:
        y = torch.empty(z.shape[0], weight.out_features, dtype=z.dtype, device=z.device)
        config = self._tuning.gemv(weight.out_features)
        nf4_gemv_kernel[(num_output_tiles(weight.sizes, config.block_outputs),)](
            *_tensors(z, y, weight, bias, shrunk),
            **_constants(z, weight, shrunk),
            ROWS=triton.next_power_of_2(z.shape[0]),
            BLOCK_N=config.block_outputs,
            num_warps=config.num_warps,
            num_stages=GEMV_STAGES,
        )
        return y


def dequantized(weight: PackedNf4, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] one below the other, with bitsandbytes' bits."""
    shape = (weight.out_features, weight.in_features)
    dense = torch.empty(shape, dtype=dtype, device=weight.codes.device)
    grid = (
        num_output_tiles(weight.sizes, DEQUANTIZE_OUTPUTS),
        triton.cdiv(weight.num_blocks, DEQUANTIZE_BLOCKS),
    )
    nf4_dequantize_kernel[grid](
        dense,
        weight.codes,
        weight.absmax,
        weight.sizes_table,
        weight.out_features,
        IN_FEATURES=weight.in_features,
        CROSSED=weight.crossed,
        NUM_MEMBERS=len(weight.sizes),
        BLOCK_N=DEQUANTIZE_OUTPUTS,
        BLOCK_B=DEQUANTIZE_BLOCKS,
        num_warps=DEQUANTIZE_WARPS,
        num_stages=1,
    )
    return dense


def matrix_options(*, hip: bool) -> dict[str, int]:
    """Compiler options that keep one matrix instruction for all numbers of rows.

    On AMD's CDNA Triton would take one of 32 x 32 for large tiles, which adds up fewer inputs.
    """
    return {"matrix_instr_nonkdim": 16} if hip else {}


def _tensors(
    z: Tensor, y: Tensor, weight: PackedNf4, bias: Tensor, shrunk: Shrunk | None
) -> tuple[Any, ...]:
    """The arguments that both kernels have, in order."""
    adapters = (bias, bias, bias)  # not read
    if shrunk is not None:
        adapters = (shrunk.rows, shrunk.tables.pointers, shrunk.planes)
    stored = (weight.codes, weight.absmax, weight.sizes_table)
    return (z, y, *stored, bias, *adapters, z.shape[0], weight.out_features)


def _constants(z: Tensor, weight: PackedNf4, shrunk: Shrunk | None) -> dict[str, Any]:
    """The constants that both kernels have."""
    adapters = {"SPLIT": 1, "RANKS": 1, "ALIGNED": False, "BLOCK_R": 16}  # not looked at
    return {
        **(adapters if shrunk is None else shrunk.constants()),
        "IN_FEATURES": weight.in_features,
        "CROSSED": weight.crossed,
        "SIZES_DIVISOR": weight.sizes_divisor,
        "NUM_MEMBERS": len(weight.sizes),
        "ADAPTED": shrunk is not None,
        "PERMUTE": permutes(z),
    }


def permutes(z: Tensor) -> bool:
    """Whether codes are decoded by PTX: for 16-bit numbers on NVIDIA."""
    return z.is_cuda and not _on_hip(z) and z.dtype.itemsize == 2


def _on_hip(z: Tensor) -> bool:
    """ROCm's torch calls its devices cuda, too."""
    return z.is_cuda and bool(torch.version.hip)
