"""Cores between A and B, as parts of a site: `motet_kernels.Core` in ELLPACK."""

import torch
from torch import Tensor

from motet_adapters.families.plan import PartSpec


def core_parts(rank: int, width: int) -> dict[str, PartSpec]:
    """At most `width` entries in each of `rank` rows."""
    return {
        "core_values": PartSpec((rank, width)),
        "core_columns": PartSpec((rank, width), torch.int32),
    }


def diagonal_parts(rank: int) -> dict[str, PartSpec]:
    return core_parts(rank, 1)


def diagonal_core(values: Tensor) -> dict[str, Tensor]:
    """values [R], the diagonal."""
    return {"core_values": values[:, None], "core_columns": torch.arange(len(values))[:, None]}


def dense_core(values: Tensor) -> dict[str, Tensor]:
    """values [R, R]."""
    rank = len(values)
    return {"core_values": values, "core_columns": torch.arange(rank).repeat(rank, 1)}


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
    return {"core_values": core_values, "core_columns": core_columns}
