"""Products with a weight that is not quantised, a row's bits independent of the number of rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# cuBLAS chooses its kernel, and with it the order of a sum, by the number of rows, so one shape
# for all is what keeps a row's bits independent of its neighbours.
BLOCK_ROWS = 64

# What a step's rows are padded to for torch's own kernels between ours. The sums over features of a
# norm are spread over threads by the number of rows, up to 16 of them (ATen's Reduce.cuh,
# set_block_dimension: 512 threads, a warp to each row); from there on a row's sum has one order.
# It is what the smallest tile of the NF4 product holds as well: fewer rows cost no less.
ROW_MULTIPLE = 16


def product_in_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """W x in blocks of exactly BLOCK_ROWS rows. x [T, K], weight [N, K], one dtype -> [T, N]."""
    padded = F.pad(x, (0, 0, 0, -x.shape[0] % BLOCK_ROWS))
    blocks = padded.split_with_sizes([BLOCK_ROWS] * (padded.shape[0] // BLOCK_ROWS))
    parts = [F.linear(block, weight) for block in blocks]
    if not parts:
        return x.new_empty(0, weight.shape[0])
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[: x.shape[0]]
