"""One adapter on one linear, and the table of all slots' adapters on it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Columns of a pointer row: addresses of A, B transposed, gain, bias (0: absent), then the rank.
POINTER_COLUMNS = 5


class LowRank(NamedTuple):
    """One adapter on one linear [N, K], at its true rank R >= 1.

    y = gain * (W x + B (A x)) + bias. All tensors share one dtype and are contiguous.
    """

    a: Tensor  # [R, K]
    bt: Tensor  # [R, N], B transposed, the scale (alpha / r, ...) already folded in
    gain: Tensor | None  # [N], DoRA's m / ||W + B A||; None: one
    bias: Tensor | None  # [N], added after the gain, on top of the base's own bias; None: zero

    @property
    def rank(self) -> int:
        return self.a.shape[0]


class SlotTable:
    """Every slot's adapter on one linear. Slot 0 is the base model and holds no adapter, ever.

    Owned by the engine thread; `put` and `clear` never copy: the tensors are views into the arena
    and must stay valid until they are cleared or replaced.
    """

    def __init__(
        self, num_slots: int, in_features: int, out_features: int, device: torch.device
    ) -> None:
        if num_slots < 1:
            raise ValueError("a slot table needs at least slot 0, the base model")
        self.num_slots = num_slots
        self.in_features = in_features
        self.out_features = out_features
        self.device = device
        self._lowranks: list[LowRank | None] = [None] * num_slots
        self._pointers: tuple[torch.dtype, Tensor] | None = None

    def put(self, slot: int, lowrank: LowRank) -> None:
        """Let `slot` run `lowrank` on this linear, replacing what it held.

        Raises ValueError for slot 0, a slot out of range, or tensors that do not fit the linear.
        """
        self._check_slot(slot)
        self._check_tensors(lowrank)
        self._lowranks[slot] = lowrank
        self._pointers = None

    def clear(self, slot: int) -> None:
        """Make `slot` leave this linear alone. Clearing an empty slot is fine."""
        self._check_slot(slot)
        self._lowranks[slot] = None
        self._pointers = None

    def __getitem__(self, slot: int) -> LowRank | None:
        """The slot's adapter; None: it does not touch this linear (always so for slot 0)."""
        return self._lowranks[slot]

    def __len__(self) -> int:
        return self.num_slots

    @property
    def max_rank(self) -> int:
        """The largest rank of any slot; 0 if all are empty."""
        return max((lowrank.rank for lowrank in self._lowranks if lowrank), default=0)

    def pointers(self, dtype: torch.dtype) -> Tensor:
        """int64 [num_slots, 5] on the table's device: addresses of a, bt, gain, bias, and rank.

        An address is 0 where there is no tensor. Raises ValueError if a slot's tensors are not of
        `dtype`: a kernel that is handed an address cannot tell. Built when asked for after a
        change, because putting an adapter changes every linear's table once.
        """
        if self._pointers is None or self._pointers[0] != dtype:
            rows = [_pointer_row(lowrank, dtype) for lowrank in self._lowranks]
            self._pointers = (dtype, torch.tensor(rows, dtype=torch.int64).to(self.device))
        return self._pointers[1]

    def _check_slot(self, slot: int) -> None:
        if slot == 0:
            raise ValueError("slot 0 is the base model and takes no adapter; use slots from 1")
        if not 0 < slot < self.num_slots:
            raise ValueError(f"slot {slot} is out of range; slots are 1 to {self.num_slots - 1}")

    def _check_tensors(self, lowrank: LowRank) -> None:
        rank = lowrank.a.shape[0]
        if rank < 1:
            raise ValueError("a low-rank adapter has rank 1 or more; leave the slot empty instead")
        n, k = self.out_features, self.in_features
        expected = {"a": (rank, k), "bt": (rank, n), "gain": (n,), "bias": (n,)}
        for name, tensor in lowrank._asdict().items():
            if tensor is None:
                continue
            if tuple(tensor.shape) != expected[name]:
                raise ValueError(
                    f"{name} must have shape {expected[name]} on a [{n}, {k}] linear, "
                    f"got {tuple(tensor.shape)}"
                )
            if tensor.dtype != lowrank.a.dtype or not tensor.is_contiguous():
                raise ValueError(f"{name} must be contiguous and of a's dtype, {lowrank.a.dtype}")
            if tensor.device.type != self.device.type:
                raise ValueError(f"{name} is on {tensor.device}, the slot table on {self.device}")


def _pointer_row(lowrank: LowRank | None, dtype: torch.dtype) -> list[int]:
    if lowrank is None:
        return [0] * POINTER_COLUMNS
    if lowrank.a.dtype != dtype:
        raise ValueError(
            f"an adapter is stored in {lowrank.a.dtype} but the kernels read {dtype}; "
            "store it in the dtype that adapter_dtype names"
        )
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in lowrank]
    return [*addresses, lowrank.rank]
