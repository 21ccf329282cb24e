"""One adapter on one linear, and the table of all slots' adapters on it."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from motet_kernels.host_copy import copied_to

# Columns of a pointer row: addresses (0: absent) of A, B transposed, gain, bias; the rank;
# addresses of in_gain, the core's values and columns; the core's width; the address of the inner
# bias; the number of the activation in ACTIVATIONS; the address of delta_gain.
POINTER_COLUMNS = 12

Activation = Literal["identity", "relu", "gelu", "gelu_new", "silu", "tanh", "sigmoid"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


def activated(u: Tensor, activation: Activation) -> Tensor:
    """activation(u), elementwise. gelu is the exact one, by erf; gelu_new the one by tanh."""
    if activation == "identity":
        return u
    if activation == "gelu":
        return functional.gelu(u)
    if activation == "gelu_new":
        return functional.gelu(u, approximate="tanh")
    if activation == "silu":
        return functional.silu(u)
    return {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[activation](u)


class Core(NamedTuple):
    """A sparse matrix C [R, R] between A and B, at most `width` entries a row (ELLPACK).

    (C u)[i] = sum_j values[i, j] * u[columns[i, j]]. A diagonal has width 1, a dense matrix
    width R; an unused entry has value 0 and any column below R. The width is at least 1.
    """

    values: Tensor  # [R, width]
    columns: Tensor  # int32 [R, width]


class LowRank(NamedTuple):
    """One adapter on one linear [N, K], at its true rank R >= 0.

        z = in_gain * x
        u = activation(core (A z) + inner_bias)
        y = gain * (W z + delta_gain * (B u)) + bias

    All tensors are contiguous and share one dtype, the core's columns excepted. Plain LoRA and
    DoRA have the first four; slots may share tensors, as adapters over one basis do.
    """

    a: Tensor  # [R, K]
    bt: Tensor  # [R, N], B transposed, the scale (alpha / r, ...) already folded in
    gain: Tensor | None = None  # [N], DoRA's m / ||W + B A||; None: one
    bias: Tensor | None = None  # [N], added after the gain, on top of the base's own; None: zero
    in_gain: Tensor | None = None  # [K], IA3 on inputs; only where the linear is alone in its group
    core: Core | None = None  # None: the unit matrix
    inner_bias: Tensor | None = None  # [R]
    activation: Activation = "identity"
    delta_gain: Tensor | None = None  # [N], of the adapter's own part alone

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by name; the core's as core_values and core_columns."""
        found = {name: value for name, value in self._asdict().items() if isinstance(value, Tensor)}
        if self.core is not None:
            found |= {"core_values": self.core.values, "core_columns": self.core.columns}
        return found


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
        self._in_gains: set[int] = set()
        self.num_changes = 0  # while it stays the same, so do all slots
        self._pointers: tuple[torch.dtype, Tensor] | None = None

    def put(self, slot: int, lowrank: LowRank) -> None:
        """Let `slot` run `lowrank` on this linear, replacing what it held.

        Raises ValueError for slot 0, a slot out of range, or tensors that do not fit the linear.
        """
        self._check_slot(slot)
        self._check_tensors(lowrank)
        self._lowranks[slot] = lowrank
        self._in_gains.discard(slot)
        if lowrank.in_gain is not None:
            self._in_gains.add(slot)
        self._changed()

    def clear(self, slot: int) -> None:
        """Make `slot` leave this linear alone. Clearing an empty slot is fine."""
        self._check_slot(slot)
        self._lowranks[slot] = None
        self._in_gains.discard(slot)
        self._changed()

    def __getitem__(self, slot: int) -> LowRank | None:
        """The slot's adapter; None: it does not touch this linear (always so for slot 0)."""
        return self._lowranks[slot]

    def __len__(self) -> int:
        return self.num_slots

    @property
    def max_rank(self) -> int:
        """The largest rank of any slot; 0 if all are empty."""
        return max((lowrank.rank for lowrank in self._lowranks if lowrank), default=0)

    @property
    def in_gain_slots(self) -> Set[int]:
        """The slots whose adapter has an in_gain."""
        return self._in_gains

    def pointers(self, dtype: torch.dtype) -> Tensor:
        """int64 [num_slots, POINTER_COLUMNS] on the table's device, a row for each slot.

        An address is 0 where there is no tensor. Raises ValueError if a slot's tensors are not of
        `dtype`: a kernel that is handed an address cannot tell. Built when asked for after a
        change, because putting an adapter changes every linear's table once.
        """
        if self._pointers is None or self._pointers[0] != dtype:
            rows = [_pointer_row(lowrank, dtype) for lowrank in self._lowranks]
            table = torch.tensor(rows, dtype=torch.int64)
            self._pointers = (dtype, copied_to(self.device, table))
        return self._pointers[1]

    def _changed(self) -> None:
        self.num_changes += 1
        self._pointers = None

    def _check_slot(self, slot: int) -> None:
        if slot == 0:
            raise ValueError("slot 0 is the base model and takes no adapter; use slots from 1")
        if not 0 < slot < self.num_slots:
            raise ValueError(f"slot {slot} is out of range; slots are 1 to {self.num_slots - 1}")

    def _check_tensors(self, lowrank: LowRank) -> None:
        rank, n, k = lowrank.a.shape[0], self.out_features, self.in_features
        if lowrank.activation not in ACTIVATIONS:
            raise ValueError(f"activation {lowrank.activation!r} is none of {ACTIVATIONS}")
        width = 0 if lowrank.core is None else lowrank.core.values.shape[-1]
        if lowrank.core is not None and rank and not width:
            raise ValueError("a core needs room for one entry a row at least")
        expected = {"a": (rank, k), "bt": (rank, n), "in_gain": (k,), "inner_bias": (rank,)}
        expected |= dict.fromkeys(("gain", "bias", "delta_gain"), (n,))
        expected |= dict.fromkeys(("core_values", "core_columns"), (rank, width))
        for name, tensor in lowrank.tensors().items():
            if tuple(tensor.shape) != expected[name]:
                raise ValueError(
                    f"{name} must have shape {expected[name]} on a [{n}, {k}] linear, "
                    f"got {tuple(tensor.shape)}"
                )
            dtype = torch.int32 if name == "core_columns" else lowrank.a.dtype
            if tensor.dtype != dtype or not tensor.is_contiguous():
                raise ValueError(f"{name} must be contiguous and of {dtype}")
            if tensor.device.type != self.device.type:
                raise ValueError(f"{name} is on {tensor.device}, the slot table on {self.device}")
        if lowrank.core is not None and lowrank.core.columns.numel():
            first, last = (int(column) for column in lowrank.core.columns.aminmax())
            if first < 0 or last >= rank:
                raise ValueError(f"core_columns must be 0 to {rank - 1}, got {first} to {last}")


def _pointer_row(lowrank: LowRank | None, dtype: torch.dtype) -> list[int]:
    if lowrank is None:
        return [0] * POINTER_COLUMNS
    if lowrank.a.dtype != dtype:
        raise ValueError(
            f"an adapter is stored in {lowrank.a.dtype} but the kernels read {dtype}; "
            "store it in the dtype that adapter_dtype names"
        )

    def address(tensor: Tensor | None) -> int:
        return 0 if tensor is None else tensor.data_ptr()

    core = lowrank.core
    return [
        *(address(tensor) for tensor in lowrank[:4]),
        lowrank.rank,
        address(lowrank.in_gain),
        address(None if core is None else core.values),
        address(None if core is None else core.columns),
        0 if core is None else core.values.shape[1],
        address(lowrank.inner_bias),
        ACTIVATIONS.index(lowrank.activation),
        address(lowrank.delta_gain),
    ]
