"""The small tables of a step, put together on the host and copied to the device in one transfer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from motet_kernels import AttentionPlan, AttentionRow, Ops, Routing, StagedOps
from numpy.typing import NDArray
from torch import Tensor

from motet.engine.step_graphs import StepKey

ALIGNMENT = 16
"""Bytes every table starts on a multiple of: the widest load of a thread."""

FIRST_BYTES = 1 << 18
"""Of a buffer before it has grown: a step of a thousand tokens over some ten thousand blocks."""


class StepBuffers:
    """One buffer on the host and its twin on the device, used again by every step.

    A step calls `begin`, `put` for each table, and `send`; the tensors that `put` returns hold the
    numbers from then on, until the next step's `send`. The same tables in the same order lie at
    the same addresses each time. On CUDA the host's buffer is page-locked, and nothing waits for
    the copy but the next `begin`, by which time it is long done.
    """

    def __init__(self, device: torch.device, num_bytes: int = FIRST_BYTES) -> None:
        self.device = device
        self.generation = 0  # another one: the addresses are others
        self._allocate(num_bytes)
        self._used = 0
        self._needed = 0
        self._copied: torch.cuda.Event | None = None

    @property
    def overflowed(self) -> bool:
        """Whether a table of this step had no room and was copied by itself."""
        return self._needed > self._host.numel()

    def begin(self) -> None:
        """Start a step: what the last one put there is not needed any more."""
        if self._copied is not None:
            self._copied.synchronize()
        if self.overflowed:
            self.generation += 1
            self._allocate(1 << (self._needed - 1).bit_length())
        self._used = self._needed = 0

    def put(self, values: NDArray[np.int32] | NDArray[np.int64]) -> Tensor:
        """A tensor of the same numbers on the device, [n], from `send` on."""
        start = self._needed
        self._needed = -(-(start + values.nbytes) // ALIGNMENT) * ALIGNMENT
        table = torch.from_numpy(values)
        if self.overflowed:
            return table.to(self.device, copy=True)
        stop = start + values.nbytes
        self._used = stop
        self._host[start:stop].view(table.dtype).copy_(table)
        return self._on_device[start:stop].view(table.dtype)

    def send(self) -> None:
        """Queue the copy behind the device's work so far, which may still read the last step's."""
        source, target = self._host[: self._used], self._on_device[: self._used]
        target.copy_(source, non_blocking=True)
        if self.device.type == "cuda":
            self._copied = torch.cuda.current_stream(self.device).record_event()

    def _allocate(self, num_bytes: int) -> None:
        is_cuda = self.device.type == "cuda"
        self._host = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=is_cuda)
        self._on_device = torch.zeros(num_bytes, dtype=torch.uint8, device=self.device)


class OwnTensors:
    """The tables of one step, each a tensor of its own."""

    key: StepKey | None = None

    def __init__(self, ops: Ops, block_size: int, device: torch.device) -> None:
        self._ops = ops
        self._block_size = block_size
        self._device = device

    def integers(self, values: Sequence[int]) -> Tensor:
        """int64 [n]."""
        return torch.tensor(values, device=self._device)

    def attention(self, routings: Sequence[Routing], rows: Sequence[AttentionRow]) -> AttentionPlan:
        """The plan for `rows`; routings: those of the step. The last table of a step."""
        return self._ops.plan_attention(rows, self._block_size, self._device)


class StagedTensors:
    """The tables of one step in the buffers of all steps, sent when the last is there.

    num_slots: for a step whose rows have one token each and that may be captured and replayed: the
    slots of its adapters' tables. None: for any other.
    """

    def __init__(
        self, ops: StagedOps, buffers: StepBuffers, block_size: int, num_slots: int | None
    ) -> None:
        self.key: StepKey | None = None
        self._ops = ops
        self._buffers = buffers
        self._block_size = block_size
        self._num_slots = num_slots
        buffers.begin()

    def integers(self, values: Sequence[int]) -> Tensor:
        return self._buffers.put(np.array(values, dtype=np.int64))

    def attention(self, routings: Sequence[Routing], rows: Sequence[AttentionRow]) -> AttentionPlan:
        device, shape = self._buffers.device, None
        if self._num_slots is not None:
            shape = self._ops.launch_shape(routings, rows, self._num_slots, device)
        plan = self._ops.stage(routings, rows, self._block_size, device, self._buffers.put, shape)
        if shape is not None and not self._buffers.overflowed:
            self.key = StepKey(plan.num_tokens, shape)
        self._buffers.send()
        return plan
