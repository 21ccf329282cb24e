"""Sums whose exact value is zero: what is left is rounding error, whose bits tell the order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from motet_kernels import Nf4Weight
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


def cancelling_nf4(num_tokens: int, n: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Nf4Weight]:
    """The same with an NF4 weight and an even K.

    NF4 holds no -w for a w, so the inputs change their sign; and one scale serves all blocks,
    because a product under another scale would not cancel.
    """
    generator = torch.Generator().manual_seed(n * k)
    half = k // 2
    order = torch.randperm(half, generator=generator)
    x = torch.randn(num_tokens, half, generator=generator).to(dtype)
    codes = torch.randint(16, (n, half), generator=generator, dtype=torch.uint8)
    codes = torch.cat([codes, codes[:, order]], dim=1).reshape(-1, 2)
    packed = (codes[:, 0] << 4 | codes[:, 1]).unsqueeze(1)
    weight = Nf4Weight(packed, torch.full((-(-n * k // 64),), 0.7), (n, k))
    return torch.cat([x, -x[:, order]], dim=1), weight


def parts_that_differ(
    product: Callable[[Tensor], Tensor], x: Tensor, counts: Iterable[int]
) -> list[tuple[int, int]]:
    """(first, count) of parts of x, at both its ends, with other bits than within the whole."""
    whole = product(x)
    places = [(first, count) for count in counts for first in (0, len(x) - count)]
    return [
        (first, count)
        for first, count in places
        if not torch.equal(product(x[first : first + count]), whole[first : first + count])
    ]
