"""A step's routing as the tables that the Triton kernels run over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motet_kernels.host_copy import copied_to
from motet_kernels.routing import Routing
from motet_kernels.staged import Place

# Rows of a tile: the smallest that tl.dot takes. One size for every batch, so that the order in
# which a row is summed never depends on how many neighbours share its slot.
TILE_ROWS = 16

# Columns of both tables: slot, first row, row after the last; the fourth makes it 16 bytes.
COLUMNS = 4


@dataclass(frozen=True)
class Tiles:
    """A step's rows by slot, on the device. Every token is in exactly one tile and one run.

    table: int32 [num_tiles, 4], at most TILE_ROWS rows of one slot each.
    rows: int32 [T, 4], for each row its slot and the run of rows of that slot that it lies in.
    """

    table: Tensor
    rows: Tensor
    slots: frozenset[int]  # those that have rows
    last_slot: int

    @classmethod
    def build(cls, routing: Routing, device: torch.device) -> Tiles:
        return cls.at(routing, lambda table: copied_to(device, torch.from_numpy(table)))

    @classmethod
    def at(cls, routing: Routing, place: Place, num_slots: int | None = None) -> Tiles:
        """The tables, where `place` puts them.

        num_slots: for launches that will be replayed. Then there are as many tiles as rows, empty
        ones at the end, and rows count as being on every slot below it.
        """
        tiles = [
            (slot, first, min(first + TILE_ROWS, stop), 0)
            for slot, start, stop in routing.segments
            for first in range(start, stop, TILE_ROWS)
        ]
        rows = [(*run, 0) for run in routing.segments for _ in range(run.start, run.stop)]
        slots = frozenset(segment.slot for segment in routing.segments)
        last_slot = max(slots, default=0)
        if num_slots is not None:
            tiles += [(0, 0, 0, 0)] * (len(rows) - len(tiles))
            slots = frozenset(range(num_slots))
        both = place(np.array(tiles + rows, dtype=np.int32).reshape(-1)).view(-1, COLUMNS)
        return cls(both[: len(tiles)], both[len(tiles) :], slots, last_slot)

    @property
    def has_adapters(self) -> bool:
        return bool(self.slots - {0})

    def __len__(self) -> int:
        return self.table.shape[0]
