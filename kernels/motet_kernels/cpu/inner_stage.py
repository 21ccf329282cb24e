"""What lies between A and B in adapters of other families than LoRA and DoRA, in float32.

Sums are written out as additions of whole tensors, whose order nothing but the adapter decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motet_kernels.lowrank import Core, LowRank, activated

_MOST_PRODUCTS = 1 << 20  # of a core's at once: 4 MiB

_SAME_ANYWHERE = ("identity", "relu")


def inner_stage(u: Tensor, lowrank: LowRank) -> Tensor:
    """activation(core u + inner_bias) of each row: u [T, R], R > 0 -> [T, R]. May return u."""
    if lowrank.core is not None:
        u = _by_core(u, lowrank.core)
    if lowrank.inner_bias is not None:
        u = u + lowrank.inner_bias
    if lowrank.activation in _SAME_ANYWHERE:
        return activated(u, lowrank.activation)
    # torch has one exponential for whole vectors and another for what is left at the end of a
    # thread's share, with other last bits; so each row is a tensor of its own.
    rows = u.split_with_sizes([1] * u.shape[0])
    return torch.cat([activated(row.clone(), lowrank.activation) for row in rows])


def _by_core(u: Tensor, core: Core) -> Tensor:
    rank, width = core.values.shape
    columns = core.columns.flatten()
    rows_at_once = max(1, _MOST_PRODUCTS // (rank * width))
    parts = []
    for start in range(0, len(u), rows_at_once):
        rows = u[start : start + rows_at_once]
        chosen = rows.index_select(1, columns).view(-1, rank, width)
        parts.append(_folded(chosen.mul_(core.values)))
    return torch.cat(parts)


def _folded(terms: Tensor) -> Tensor:
    """The sum over the last dimension, halves upon halves; overwrites `terms`."""
    width = terms.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:width]
        width = half
    return terms[..., 0]
