"""Sums whose exact value is zero: what is left is rounding error, whose bits tell the order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cancelling_product(
    num_tokens: int, n: int, k: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """x [T, K] and weight [N, K] with x weight^T exactly zero, term by term in another order."""
    generator = torch.Generator().manual_seed(n * k)
    half = k // 2
    order = torch.randperm(half, generator=generator)
    x = torch.randn(num_tokens, half, generator=generator).to(dtype)
    weight = torch.randn(n, half, generator=generator).to(dtype)
    x = torch.cat([x, x[:, order]], dim=1)
    weight = torch.cat([weight, -weight[:, order]], dim=1)
    return F.pad(x, (0, k % 2)), F.pad(weight, (0, k % 2))
