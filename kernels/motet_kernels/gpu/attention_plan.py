"""A step's attention as one table of integers, which is all that a step copies to the device.

The table (int32): a header of HEADER_LEN, the first of which is the number of rows R; R rows of
ROW_COLUMNS; the rows' block tables, one after the other. The columns of a row:

    0  its first token in the packed batch
    1  its number of tokens
    2  the position of its first token
    3  where its block table begins, counted from the start of the table
    4  the split length of its tokens
    5  the partial row of its first token; -1: its splits are summed by one program

Split lengths. A query that sees n keys cuts them at the multiples of the smallest power of two
times `split_len` of which MAX_SPLITS - 1 hold n keys, so that at most MAX_SPLITS splits cover them
wherever a window begins. The length depends on n alone; rows are cut where it changes, so that the
tokens of a row of the table share one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motet_kernels.attention_layout import AttentionRow, check_rows
from motet_kernels.host_copy import copied_to
from motet_kernels.ops import AttentionPlan

HEADER_LEN = 4
ROW_COLUMNS = 6

# Planes of the partial sums: the most splits that one query's keys are cut into.
MAX_SPLITS = 16

# Rows of more tokens have tiles enough to fill a GPU with a program each, and would need much
# memory for parts. Which rows have parts changes nothing of their bits.
MOST_PARTIAL_TOKENS = 64
# Tokens of a step whose splits may be summed apart: what bounds the memory for their parts.
MAX_PARTIAL_ROWS = 512

# Launches that are to be replayed are made for one of these: few, as each is captured by itself.
LAUNCHED_SPLITS = (1, 4, MAX_SPLITS)

Table = NDArray[np.int32]


def split_length(num_keys: int, split_len: int) -> int:
    """The length of the splits that `num_keys` visible keys are cut into."""
    length = split_len
    while length * (MAX_SPLITS - 1) < num_keys:
        length *= 2
    return length


@dataclass(frozen=True)
class RowPart:
    """Tokens of one row that share a split length: a row of the table."""

    start: int
    num_tokens: int
    position: int
    length: int
    source: int  # the index of its AttentionRow

    def num_splits(self, window: int | None, split_len: int) -> int:
        """The most splits that one tile of it touches."""
        last, first_key, length = self.position + self.num_tokens - 1, 0, self.length
        if window is not None:
            length = min(length, split_length(window, split_len))
            first_key = max(self.position - window + 1, 0)
        return last // length - first_key // length + 1


def row_parts(rows: Sequence[AttentionRow], split_len: int) -> Iterator[RowPart]:
    """The rows, cut where the split length changes."""
    for index, row in enumerate(rows):
        position = row.kv_len - row.num_tokens
        start, stop = row.start, row.start + row.num_tokens
        while start < stop:
            length = split_length(position + 1, split_len)
            count = min(stop - start, length * (MAX_SPLITS - 1) - position)
            yield RowPart(start, count, position, length, index)
            start += count
            position += count


@dataclass(frozen=True)
class GpuAttentionPlan(AttentionPlan):
    """table: int32 on the device. num_splits and num_partial_rows bound what it asks for."""

    table: Tensor
    num_rows: int  # of the table
    num_partial_rows: int
    parts: tuple[RowPart, ...]  # those that have partial rows
    split_len: int
    block_size: int
    least_splits: int = 1  # programs for splits that a launch has, whether needed or not
    _num_splits: dict[int | None, int] = field(default_factory=dict)

    def num_splits(self, window: int | None) -> int:
        """The most splits of any row that has partial rows; at least `least_splits`."""
        if window not in self._num_splits:
            counts = [part.num_splits(window, self.split_len) for part in self.parts]
            self._num_splits[window] = max([self.least_splits, *counts])
        return self._num_splits[window]


@dataclass(frozen=True)
class HostPlan:
    """A plan whose table is still on the host."""

    table: Table
    num_tokens: int
    num_rows: int
    num_partial_rows: int
    parts: tuple[RowPart, ...]
    split_len: int
    block_size: int
    least_splits: int

    @classmethod
    def build(
        cls,
        rows: Sequence[AttentionRow],
        block_size: int,
        split_len: int,
        least_splits: int | None = None,
    ) -> HostPlan:
        """The table of `rows`. Raises ValueError where they cannot be.

        least_splits: for launches of rows of one token that will be replayed: how many splits they
        are made for. With more than one, every row has a partial row.
        """
        num_tokens = check_rows(rows, block_size)
        parts = tuple(row_parts(rows, split_len))
        starts, blocks = _block_tables(rows, HEADER_LEN + len(parts) * ROW_COLUMNS)
        table = array("i", (len(parts), 0, 0, 0))
        num_partial, with_partials = 0, []
        for part in parts:
            room = min(MOST_PARTIAL_TOKENS, MAX_PARTIAL_ROWS - num_partial)
            has_parts = part.position + part.num_tokens > split_len and part.num_tokens <= room
            if least_splits is not None:
                has_parts = least_splits > 1
            partial_row = -1
            if has_parts:
                partial_row = num_partial
                num_partial += part.num_tokens
                with_partials.append(part)
            table.extend(
                (
                    part.start,
                    part.num_tokens,
                    part.position,
                    starts[part.source],
                    part.length,
                    partial_row,
                )
            )
        table.extend(blocks)
        return cls(
            np.frombuffer(table, dtype=np.int32),
            num_tokens,
            len(parts),
            num_partial,
            tuple(with_partials),
            split_len,
            block_size,
            least_splits or 1,
        )

    def on(self, table: Tensor) -> GpuAttentionPlan:
        """The plan, its table being at `table` (int32, on a device)."""
        return GpuAttentionPlan(
            self.num_tokens,
            table,
            self.num_rows,
            self.num_partial_rows,
            self.parts,
            self.split_len,
            self.block_size,
            self.least_splits,
        )


def launched_splits(rows: Sequence[AttentionRow], split_len: int) -> int:
    """How many splits launches of these rows of one token are made for, whatever the window."""
    most = max(row.kv_len for row in rows)
    needed = min(-(-most // split_len), MAX_SPLITS)  # no split is shorter than split_len
    return next(count for count in LAUNCHED_SPLITS if count >= needed)


def plan_attention(
    rows: Sequence[AttentionRow], block_size: int, split_len: int, device: torch.device
) -> GpuAttentionPlan:
    """`Ops.plan_attention`: one copy to the device."""
    plan = HostPlan.build(rows, block_size, split_len)
    return plan.on(copied_to(device, torch.from_numpy(plan.table)))


def _block_tables(rows: Sequence[AttentionRow], offset: int) -> tuple[list[int], array[int]]:
    """Where each row's block table begins, and all of them in a row; rows that share one share
    it here."""
    places: dict[int, int] = {}
    blocks: array[int] = array("i")
    starts = []
    for row in rows:
        # by identity: comparing long tables costs more than storing one twice
        if id(row.blocks) not in places:
            places[id(row.blocks)] = offset + len(blocks)
            blocks.extend(row.blocks)
        starts.append(places[id(row.blocks)])
    return starts, blocks
