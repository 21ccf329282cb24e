"""Norms whose weight is an adapter's own."""

from __future__ import annotations

import torch
from torch import Tensor

from motet_kernels.routing import Routing


class NormTable:
    """Every slot's weight of one norm. Slot 0 is the base model and keeps the norm's own, ever.

    As with `SlotTable`, the engine thread owns it, and the tensors are views that must stay valid
    until they are cleared or replaced.
    """

    def __init__(self, num_slots: int, size: int, device: torch.device) -> None:
        if num_slots < 1:
            raise ValueError("a norm table needs at least slot 0, the base model")
        self.num_slots = num_slots
        self.size = size
        self.device = device
        self._weights: list[Tensor | None] = [None] * num_slots
        self._count = 0
        self.num_changes = 0  # while it stays the same, so do all slots
        self._pointers: tuple[torch.dtype, Tensor] | None = None

    def put(self, slot: int, weight: Tensor) -> None:
        """Let `slot` have this weight [size] in place of the norm's own.

        Raises ValueError for slot 0, a slot out of range, or a weight that does not fit.
        """
        self._check_slot(slot)
        if tuple(weight.shape) != (self.size,) or not weight.is_contiguous():
            raise ValueError(f"a weight must be [{self.size}] and contiguous, got {weight.shape}")
        if weight.device.type != self.device.type:
            raise ValueError(f"a weight is on {weight.device}, the norm table on {self.device}")
        self._set(slot, weight)

    def clear(self, slot: int) -> None:
        """Give `slot` the norm's own weight. Clearing an empty slot is fine."""
        self._check_slot(slot)
        self._set(slot, None)

    def __getitem__(self, slot: int) -> Tensor | None:
        """The slot's weight; None: the norm's own (always so for slot 0)."""
        return self._weights[slot]

    def __len__(self) -> int:
        return self.num_slots

    @property
    def is_empty(self) -> bool:
        """Whether no slot has a weight of its own."""
        return self._count == 0

    def rows(self, weight: Tensor, routing: Routing) -> Tensor:
        """Each token's weight [T, size], in the dtype of the norm's own `weight` [size].

        That one, as it is, where no token's slot has another: both can be multiplied with rows.
        """
        if all(self._weights[segment.slot] is None for segment in routing.segments):
            return weight
        rows = weight.repeat(routing.num_tokens, 1)
        for slot, start, stop in routing.segments:
            own = self._weights[slot]
            if own is not None:
                rows[start:stop] = own
        return rows

    def pointers(self, dtype: torch.dtype) -> Tensor:
        """int64 [num_slots] on the table's device: the addresses of the weights, 0 for none.

        Raises ValueError if one is not of `dtype`. Built when asked for after a change.
        """
        if self._pointers is None or self._pointers[0] != dtype:
            addresses = [_address(weight, dtype) for weight in self._weights]
            self._pointers = (dtype, torch.tensor(addresses, dtype=torch.int64).to(self.device))
        return self._pointers[1]

    def _set(self, slot: int, weight: Tensor | None) -> None:
        self._count += (weight is not None) - (self._weights[slot] is not None)
        self._weights[slot] = weight
        self.num_changes += 1
        self._pointers = None

    def _check_slot(self, slot: int) -> None:
        if slot == 0:
            raise ValueError("slot 0 is the base model and keeps its norms; use slots from 1")
        if not 0 < slot < self.num_slots:
            raise ValueError(f"slot {slot} is out of range; slots are 1 to {self.num_slots - 1}")


def _address(weight: Tensor | None, dtype: torch.dtype) -> int:
    if weight is None:
        return 0
    if weight.dtype != dtype:
        raise ValueError(f"a norm's weight is stored in {weight.dtype}, the kernels read {dtype}")
    return weight.data_ptr()
