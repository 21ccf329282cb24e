"""A step's routing as the table of row tiles that the Triton kernels run over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels.routing import Routing

# Rows of a tile: the smallest that tl.dot takes. One size for every batch, so that the order in
# which a row is summed never depends on how many neighbours share its slot.
TILE_ROWS = 16

# Columns of a tile: slot, first row, row after the last.
TILE_COLUMNS = 3


@dataclass(frozen=True)
class Tiles:
    """table: int32 [num_tiles, 3] on the device, every token in exactly one tile."""

    table: Tensor
    has_adapters: bool

    @classmethod
    def build(cls, routing: Routing, device: torch.device) -> Tiles:
        rows = [
            (slot, first, min(first + TILE_ROWS, stop))
            for slot, start, stop in routing.segments
            for first in range(start, stop, TILE_ROWS)
        ]
        table = torch.tensor(rows, dtype=torch.int32).reshape(-1, TILE_COLUMNS)
        return cls(table.to(device), any(segment.slot for segment in routing.segments))

    def __len__(self) -> int:
        return self.table.shape[0]
