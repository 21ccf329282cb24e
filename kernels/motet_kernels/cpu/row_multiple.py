"""How many rows at a time a dense product must be given so that no row feels the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CANDIDATES = (1, 2, 4, 8, 16, 32)

# Row counts that are compared with the large batch: where libraries switch kernels.
_ROW_COUNTS = (*range(1, 18), 20, 24, 28, 31, 32, 33, 36, 40, 48, 63, 64, 65, 96)
_LARGE = 128

# [N, K]: one output, low-rank shapes both ways, odd sizes, a long reduction.
_SHAPES = ((1, 256), (3, 576), (16, 576), (192, 16), (61, 127), (96, 576), (64, 4096))


def probe_row_multiple(dtype: torch.dtype) -> int:
    """The smallest g of CANDIDATES for which every tried multiple of g gives a row its bits.

    Compares the rows of F.linear at many row counts with those of one large batch, bit for bit,
    on this machine and this torch. Some tens of milliseconds. Raises RuntimeError if no candidate
    holds: the isolation promise could then not be kept.
    """
    generator = torch.Generator().manual_seed(0)
    deviating: set[int] = set()
    for n, k in _SHAPES:
        weight = torch.randn(n, k, generator=generator).to(dtype)
        x = torch.randn(_LARGE, k, generator=generator).to(dtype)
        large = F.linear(x, weight)
        deviating.update(
            m for m in _ROW_COUNTS if not torch.equal(F.linear(x[:m], weight), large[:m])
        )
    for candidate in CANDIDATES:
        if not any(m % candidate == 0 for m in deviating):
            return candidate
    raise RuntimeError(
        f"torch's {dtype} matrix product gives a row different bits at {sorted(deviating)} rows "
        "on this machine; no row padding makes rows independent of each other"
    )


def pad_rows(x: Tensor, multiple: int) -> Tensor:
    """x [T, K] with zero rows appended up to a multiple; x itself where none are needed."""
    missing = -x.shape[0] % multiple
    return F.pad(x, (0, 0, 0, missing)) if missing else x
