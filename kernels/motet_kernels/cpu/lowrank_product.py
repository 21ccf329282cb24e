"""The adapter half of a group of linears, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from motet_kernels.cpu.segments import SegmentPlan
from motet_kernels.lowrank import LowRank, SlotTable

# With fewer outputs, or rows that do not start on a cache line, matrix libraries fall back to
# kernels whose sums depend on where a row lies in memory.
_ALIGNED_LEN = 16


def add_lowrank(
    x: Tensor,
    y: Tensor,
    tables: Sequence[SlotTable],
    plan: SegmentPlan,
    base_bias: Tensor | None,
) -> Tensor:
    """gain * (y + B A x) + adapter bias + base bias, computed in float32 and rounded once.

    x [T, K]; y [T, sum N], the members' W x side by side; base_bias float32 [sum N].
    Returns [T, sum N] in y's dtype. May overwrite y.
    """
    x32, y32 = x.float(), y.float()
    if plan.source is not None:
        x32, y32 = x32.index_select(0, plan.source), y32.index_select(0, plan.source)
    x_parts = x32.split_with_sizes(plan.sizes)
    members = y32.split_with_sizes([table.out_features for table in tables], dim=1)
    for table, member in zip(tables, members, strict=True):
        is_aligned = table.in_features % _ALIGNED_LEN == 0 and table.out_features >= _ALIGNED_LEN
        y_parts = member.split_with_sizes(plan.sizes)
        for slot, x_part, y_part in zip(plan.slots, x_parts, y_parts, strict=True):
            lowrank = table[slot]
            if lowrank is None:
                continue
            if is_aligned:
                y_part.addmm_(F.linear(x_part, lowrank.a), lowrank.bt)
            else:
                y_part.add_(_row_by_row(x_part, lowrank))
            if lowrank.gain is not None:
                y_part.mul_(lowrank.gain)
            if lowrank.bias is not None:
                y_part.add_(lowrank.bias)
    if base_bias is not None:
        y32 += base_bias
    adapted = y32.to(y.dtype)
    return adapted if plan.place is None else adapted.index_select(0, plan.place)


def _row_by_row(x: Tensor, lowrank: LowRank) -> Tensor:
    """B A x, each row copied and multiplied alone: right by construction, and slow."""
    rows = x.split_with_sizes([1] * x.shape[0])
    return torch.cat([F.linear(row.clone(), lowrank.a).mm(lowrank.bt) for row in rows])
