"""Unquantised linears in a form of an implementation's own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class PackedDense:
    """A linear [N, K] prepared by `PackedDenseOps.pack_dense`.

    Opaque to callers; each implementation extends it and accepts only its own.
    """

    in_features: int
    out_features: int

    @property
    def num_bytes(self) -> int:
        """Memory of what was prepared."""
        values = (getattr(self, item.name) for item in fields(self))
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


@runtime_checkable
class PackedDenseOps(Protocol):
    """What an implementation of Ops has besides if it can keep a copy of a large unquantised weight
    in a form that it multiplies faster."""

    def pack_dense(self, weight: Tensor, bias: Tensor | None) -> PackedDense | None:
        """weight [N, K], bias [N] or None; None where `dense_linear` is all there is for them."""

    def packed_dense_linear(self, x: Tensor, packed: PackedDense) -> Tensor:
        """`dense_linear` with that weight and bias, under the isolation promise.

        x [T, K] in the weight's dtype -> [T, N] in it, in the precision that the implementation is
        for.
        """
