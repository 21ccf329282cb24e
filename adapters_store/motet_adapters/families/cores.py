"""Cores between A and B, as parts of a site: `motet_kernels.Core` in ELLPACK."""

import torch
from torch import Tensor

from motet_adapters.families.plan import PartSpec

VALUES, COLUMNS = "core_values", "core_columns"
"""Parts of a site. Where the columns are the same for every adapter, they are the basis's."""


def core_parts(rank: int, width: int) -> dict[str, PartSpec]:
    """At most `width` entries in each of `rank` rows."""
    return {VALUES: PartSpec((rank, width)), COLUMNS: columns_part(rank, width)}


def columns_part(rank: int, width: int) -> PartSpec:
    return PartSpec((rank, width), torch.int32)


def diagonal_columns(rank: int) -> Tensor:
    """[R, 1]"""
    return torch.arange(rank)[:, None]


def dense_columns(rank: int) -> Tensor:
    """[R, R]"""
    return torch.arange(rank).repeat(rank, 1)


def banded_columns(rank: int, off_diagonals: int) -> Tensor:
    """[R, 2 off_diagonals + 1], of a band's entries by their distance from the diagonal. Where that
    leads out of the matrix there is no entry, and any column will do."""
    columns = torch.arange(rank)[:, None] + torch.arange(-off_diagonals, off_diagonals + 1)
    return columns.clamp(0, rank - 1)


def sparse_core(
    rows: Tensor, columns: Tensor, values: Tensor, rank: int, width: int
) -> dict[str, Tensor] | None:
    """Entries values [n] at (rows [n], columns [n]); those at one place add up. None: a row has
    more than `width` entries."""
    counts = torch.bincount(rows, minlength=rank)
    if int(counts.max()) > width:
        return None
    order = torch.argsort(rows, stable=True)
    rows, columns, values = rows[order], columns[order], values[order]
    place = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    core_values = torch.zeros(rank, width)
    core_columns = torch.zeros(rank, width, dtype=torch.int64)
    core_values[rows, place] = values
    core_columns[rows, place] = columns
    return {VALUES: core_values, COLUMNS: core_columns}
