"""Products with a weight that is not quantised, a row's bits independent of the number of rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# cuBLAS chooses its kernel, and with it the order of a sum, by the number of rows, so one shape
# for all is what keeps a row's bits independent of its neighbours.
BLOCK_ROWS = 64


def product_in_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """W x in blocks of exactly BLOCK_ROWS rows. x [T, K], weight [N, K], one dtype -> [T, N]."""
    padded = F.pad(x, (0, 0, 0, -x.shape[0] % BLOCK_ROWS))
    blocks = padded.split_with_sizes([BLOCK_ROWS] * (padded.shape[0] // BLOCK_ROWS))
    parts = [F.linear(block, weight) for block in blocks]
    if not parts:
        return x.new_empty(0, weight.shape[0])
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[: x.shape[0]]
