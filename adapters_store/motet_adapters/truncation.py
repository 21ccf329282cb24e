"""The best product of a given rank in place of an update that is none: a truncated SVD."""

import torch
from torch import Tensor

_EXACT_BELOW = 1024  # of min(N, K): a whole SVD takes seconds there, and minutes at 4096
_OVERSAMPLED = 16
_POWER_STEPS = 4


def truncated(update: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """A [rank, K] and B [N, rank] nearest to the update [N, K], and the relative error.

    float32. The error is ||update - B A|| / ||update|| in the Frobenius norm, measured, not
    estimated. Large updates are cut by subspace iteration from a fixed start (Halko, Martinsson
    and Tropp, arXiv 0909.4061, algorithm 4.4), so that the same update always gives the same.
    """
    u, values, vt = _leading(update, rank)
    root = values.sqrt()
    a, b = root[:, None] * vt, u * root
    norm = float(update.norm())
    return a, b, float((update - b @ a).norm()) / norm if norm else 0.0


def _leading(update: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    if min(update.shape) <= _EXACT_BELOW:
        u, values, vt = torch.linalg.svd(update, full_matrices=False)
        return u[:, :rank], values[:rank], vt[:rank]
    generator = torch.Generator().manual_seed(0)
    columns = min(rank + _OVERSAMPLED, *update.shape)
    start = torch.randn(update.shape[1], columns, generator=generator)
    basis = torch.linalg.qr(update @ start).Q
    for _ in range(_POWER_STEPS):
        basis = torch.linalg.qr(update @ torch.linalg.qr(update.t() @ basis).Q).Q
    u, values, vt = torch.linalg.svd(basis.t() @ update, full_matrices=False)
    return basis @ u[:, :rank], values[:rank], vt[:rank]
