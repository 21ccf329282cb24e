"""How many rows at a time a dense product must be given so that no row feels the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)

# Row counts that are compared with a large batch: each residue, and where libraries switch kernels.
_ROW_COUNTS = (*range(1, 14), 16, 17, 20, 24, 28, 32, 33, 36, 40, 48, 64, 96, 128)
_LARGE = 256

# Where in the large batch the compared rows start: they then lie elsewhere in memory and in a tile.
_OFFSETS = (0, 1, 6)

# More outputs than this are not tried at once: an lm_head would need a copy of its full size.
_MOST_OUTPUTS = 16384

# [N, K] of a model's linears, small and large, among them ones that deviated on some machine.
_DENSE_SHAPES = ((61, 127), (64, 64), (96, 576), (576, 1536), (512, 4096))

# [N, K] of low-rank products, into and out of a rank.
_LOW_RANK_SHAPES = (
    *((1, 256), (3, 576), (7, 64), (16, 576), (96, 576), (16, 4096)),
    *((16, 7), (64, 3), (576, 1), (576, 16), (192, 96), (4096, 16)),
)


class RowMultiples:
    """The row multiple of dense products on this machine and this torch, found by trying.

    Which kernel a matrix library takes, and with it the order of a sum, depends on the dtype, the
    weight's shape and the number of rows, and for odd shapes on where a row lies in memory. So a
    product is tried once for each dtype and shape, at many row counts, on inputs whose exact
    result is zero: what comes out is rounding error alone, and any change in the order of the sum
    changes its bits. (Ordinary inputs hide it: rounding to bf16 makes nearly all results equal.)

    The order may also depend on the number of threads, which must not change afterwards.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[torch.dtype, tuple[tuple[int, int], ...]], int | None] = {}

    def dense(self, dtype: torch.dtype) -> int:
        """For a model's dense products, as far as a fixed set of shapes tells. Tens of ms, once.

        Weights with less than some 4000 elements need more rows in bf16.
        """
        return _found(self.of(dtype, _DENSE_SHAPES), dtype)

    def low_rank(self, dtype: torch.dtype) -> int:
        """For products into and out of a rank with K % 16 == 0 and N >= 16, in the same way."""
        return _found(self.of(dtype, _LOW_RANK_SHAPES), dtype)

    def of(self, dtype: torch.dtype, shapes: Sequence[tuple[int, int]]) -> int | None:
        """For products with weights of these shapes [N, K]; None: no multiple keeps the bits.

        Tried once: some 80 products of few rows each.
        """
        key = (dtype, tuple(shapes))
        if key not in self._known:
            deviating = {m for shape in shapes for m in _deviating_rows(dtype, *shape)}
            self._known[key] = _multiple_avoiding(deviating)
        return self._known[key]


def _deviating_rows(dtype: torch.dtype, n: int, k: int) -> set[int]:
    """The row counts at which rows get other bits than in a large batch."""
    generator = torch.Generator().manual_seed(0)
    half = k // 2
    order = torch.randperm(half, generator=generator)
    weight = torch.randn(min(n, _MOST_OUTPUTS), half, generator=generator).to(dtype)
    x = torch.randn(_LARGE, half, generator=generator).to(dtype)
    # the second half takes away what the first half adds, in another order
    weight = F.pad(torch.cat([weight, -weight[:, order]], dim=1), (0, k % 2))  # [N, K]
    x = F.pad(torch.cat([x, x[:, order]], dim=1), (0, k % 2))  # [T, K]
    large = F.linear(x, weight)
    return {
        m
        for m in _ROW_COUNTS
        for first in _OFFSETS
        if not torch.equal(F.linear(x[first : first + m], weight), large[first : first + m])
    }


def _multiple_avoiding(deviating: Iterable[int]) -> int | None:
    """The smallest candidate of which no deviating row count is a multiple."""
    for candidate in CANDIDATES:
        if not any(m % candidate == 0 for m in deviating):
            return candidate
    return None


def _found(multiple: int | None, dtype: torch.dtype) -> int:
    if multiple is None:
        raise RuntimeError(
            f"this machine's {dtype} matrix product gives a row other bits in company than alone, "
            "however rows are padded; try another number of threads or another compute dtype"
        )
    return multiple


def isolated_linear(x: Tensor, weight: Tensor, multiple: int | None) -> Tensor:
    """W x with rows independent of each other: x [T, K], weight [N, K] -> [T, N].

    multiple: the weight's, from `RowMultiples.of`. Without one, each row is copied and multiplied
    alone: right by construction, slow, and met only with tiny or oddly sized weights.
    """
    num_rows = x.shape[0]
    if multiple is None:
        rows = [F.linear(row.clone(), weight) for row in x.split_with_sizes([1] * num_rows)]
        return torch.cat(rows) if rows else x.new_empty(0, weight.shape[0])
    missing = -num_rows % multiple
    if missing:
        return F.linear(F.pad(x, (0, 0, 0, missing)), weight)[:num_rows]
    return F.linear(x, weight)
