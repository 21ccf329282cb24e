"""The adapter half of a group of linears, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from motet_kernels.cpu.inner_stage import inner_stage
from motet_kernels.cpu.segments import SegmentPlan
from motet_kernels.lowrank import LowRank, SlotTable

# With fewer outputs, or rows that do not start on a cache line, matrix libraries fall back to
# kernels whose sums depend on where a row lies in memory.
_ALIGNED_LEN = 16


def add_lowrank(
    z: Tensor,
    y: Tensor,
    tables: Sequence[SlotTable],
    plan: SegmentPlan,
    base_bias: Tensor | None,
) -> Tensor:
    """gain * (y + delta_gain * B u) + adapter bias + base bias, with u as LowRank has it.

    Computed in float32 and rounded once. z [T, K]; y [T, sum N], the members' W z side by side;
    base_bias float32 [sum N]. Returns [T, sum N] in y's dtype. May overwrite y.
    """
    z32, y32 = z.float(), y.float()
    if plan.source is not None:
        z32, y32 = z32.index_select(0, plan.source), y32.index_select(0, plan.source)
    z_parts = z32.split_with_sizes(plan.sizes)
    members = y32.split_with_sizes([table.out_features for table in tables], dim=1)
    for table, member in zip(tables, members, strict=True):
        is_aligned = table.in_features % _ALIGNED_LEN == 0 and table.out_features >= _ALIGNED_LEN
        y_parts = member.split_with_sizes(plan.sizes)
        for slot, z_part, y_part in zip(plan.slots, z_parts, y_parts, strict=True):
            lowrank = table[slot]
            if lowrank is None:
                continue
            if lowrank.rank:
                _add_delta(z_part, y_part, lowrank, is_aligned)
            if lowrank.gain is not None:
                y_part.mul_(lowrank.gain)
            if lowrank.bias is not None:
                y_part.add_(lowrank.bias)
    if base_bias is not None:
        y32 += base_bias
    adapted = y32.to(y.dtype)
    return adapted if plan.place is None else adapted.index_select(0, plan.place)


def _add_delta(z: Tensor, y: Tensor, lowrank: LowRank, is_aligned: bool) -> None:
    """y += delta_gain * B u, in place; z [T, K], y [T, N]."""
    u = inner_stage(F.linear(z, lowrank.a) if is_aligned else _by_rows(z, lowrank.a.T), lowrank)
    if is_aligned and lowrank.delta_gain is None:
        y.addmm_(u, lowrank.bt)
        return
    delta = u.mm(lowrank.bt) if is_aligned else _by_rows(u, lowrank.bt)
    y.add_(delta if lowrank.delta_gain is None else delta.mul_(lowrank.delta_gain))


def _by_rows(x: Tensor, matrix: Tensor) -> Tensor:
    """x matrix, each row copied and multiplied alone: right by construction, and slow."""
    rows = x.split_with_sizes([1] * x.shape[0])
    return torch.cat([row.clone().mm(matrix) for row in rows])
