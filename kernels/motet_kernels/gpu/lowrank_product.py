"""Launching shrink and expand: the adapter half of a linear."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from motet_kernels.gpu.lowrank_kernels import expand_kernel, shrink_kernel
from motet_kernels.gpu.tiles import TILE_ROWS, Tiles
from motet_kernels.lowrank import SlotTable

BLOCK_R = 16
BLOCK_K = 64
BLOCK_N = 64

# K per program of a shrink: at decode there are few tiles, so a long K is split over more programs.
SPLIT_LEN = 1024
MAX_SPLIT = 8


def add_lowrank(
    x: Tensor, y: Tensor, table: SlotTable, tiles: Tiles, base_bias: Tensor | None
) -> None:
    """y[t] = gain * (y[t] + B A x[t]) + adapter bias + base bias, in place.

    x [T, K], y [T, N] holding W x, of one dtype, the last dimension contiguous; base_bias float32
    [N]. Rows of a slot without an entry only get the base bias.

    The sum over K is split by K alone, never by the batch, and the parts are added in a fixed
    order: a row's bits do not depend on its neighbours.
    """
    if base_bias is None and not tiles.has_adapters:
        return
    num_split = min(MAX_SPLIT, triton.cdiv(table.in_features, SPLIT_LEN))
    part_len = triton.cdiv(triton.cdiv(table.in_features, num_split), BLOCK_K) * BLOCK_K
    max_rank = max(1, table.max_rank)
    pointers = table.pointers(x.dtype)
    planes = torch.empty(num_split, x.shape[0], max_rank, dtype=torch.float32, device=x.device)
    shrink_kernel[(len(tiles), triton.cdiv(max_rank, BLOCK_R), num_split)](
        x,
        planes,
        tiles.table,
        pointers,
        x.shape[0],
        table.in_features,
        max_rank,
        x.stride(0),
        part_len,
        BLOCK_T=TILE_ROWS,
        BLOCK_R=BLOCK_R,
        BLOCK_K=BLOCK_K,
    )
    expand_kernel[(len(tiles), triton.cdiv(table.out_features, BLOCK_N))](
        y,
        planes,
        tiles.table,
        pointers,
        planes if base_bias is None else base_bias,
        x.shape[0],
        table.out_features,
        max_rank,
        y.stride(0),
        SPLIT=num_split,
        HAS_BASE_BIAS=base_bias is not None,
        BLOCK_T=TILE_ROWS,
        BLOCK_N=BLOCK_N,
        BLOCK_R=BLOCK_R,
    )
