"""A step whose tables go to the device together, and steps that can be captured and replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motet_kernels.attention_layout import AttentionRow
from motet_kernels.lowrank import SlotTable
from motet_kernels.ops import AttentionPlan
from motet_kernels.routing import Routing

Place = Callable[[NDArray[np.int32]], Tensor]
"""int32 [n] -> int32 [n] on the device, which holds these numbers once the step runs."""


class LaunchShape(NamedTuple):
    """What the launches of a captured step are made for, besides its number of tokens.

    A step of one-token rows may run as one captured for the same numbers.
    """

    num_splits: int  # of any row's keys in attention
    num_slots: int  # slots below it may hold adapters that rows run on; 1: base rows alone


@runtime_checkable
class StagedOps(Protocol):
    """What an implementation of Ops has besides if its steps need no copy of their own."""

    def launch_shape(
        self,
        routings: Sequence[Routing],
        rows: Sequence[AttentionRow],
        num_slots: int,
        device: torch.device,
    ) -> LaunchShape:
        """The shape that a step of one-token rows needs; of few different ones, so that a graph
        serves many steps. num_slots: the slot tables'."""

    def stage(
        self,
        routings: Sequence[Routing],
        rows: Sequence[AttentionRow],
        block_size: int,
        device: torch.device,
        place: Place,
        shape: LaunchShape | None,
    ) -> AttentionPlan:
        """`plan_attention` with its table, and those of the routings, at `place`.

        routings: those that the step's calls will come with. shape: None, or what launches are
        made for; then all rows have one token, and each table, in the order in which `place` is
        asked, has a length that the number of tokens decides, the last one excepted.
        """

    def settle(self, groups: Sequence[Sequence[SlotTable]], dtype: torch.dtype) -> Hashable:
        """Bring what the device has of these groups' adapters up to date, where it is.

        Returns what captured launches on the groups depend on besides: a step that was captured
        under another value must not be replayed.
        """
