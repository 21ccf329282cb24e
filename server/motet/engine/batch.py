"""From a plan's rows to the tensors of one forward pass: the only place rows become columns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from motet_kernels import AttentionPlan, AttentionRow, Ops, Routing, Segment, StagedOps
from torch import Tensor

from motet.engine.scheduler import Row
from motet.engine.step_buffers import OwnTensors, StagedTensors, StepBuffers
from motet.engine.step_graphs import StepKey
from motet.engine.virtual_tokens import VirtualRow, virtual_embeddings

PADDING_BLOCK = 0
"""The KV block padding rows write to; `BlockPool` never hands it out."""


@dataclass(frozen=True)
class BatchLayout:
    """What every batch of one engine has in common.

    `row_multiple`: token and logit counts are padded up to a multiple of it, so that every dense
    product in the model, ours or transformers', runs at a row count whose bits do not depend on
    who else is in the batch.
    """

    ops: Ops
    block_size: int
    row_multiple: int
    device: torch.device
    buffers: StepBuffers | None = None  # of every step's small tensors; None: each has its own
    buckets: tuple[int, ...] = ()  # row counts that steps of one-token rows are padded up to
    num_slots: int = 1

    def bucket(self, rows: SequenceOf[Row]) -> int | None:
        """What the rows are padded up to, so that their step can be replayed; None: it cannot."""
        if self.buffers is None or any(row.count != 1 for row in rows):
            return None
        return next((size for size in self.buckets if size >= len(rows)), None)

    def tensors(self, bucket: int | None) -> OwnTensors | StagedTensors:
        """Where the tensors of one step go."""
        if self.buffers is None or not isinstance(self.ops, StagedOps):
            return OwnTensors(self.ops, self.block_size, self.device)
        num_slots = None if bucket is None else self.num_slots
        return StagedTensors(self.ops, self.buffers, self.block_size, num_slots)


@dataclass(frozen=True)
class Batch:
    """One forward pass over T tokens (padding included) for R rows that sample."""

    rows: tuple[Row, ...]  # ordered by slot, so that each adapter's tokens are contiguous
    input_ids: Tensor  # int64 [1, T]
    positions: Tensor  # int64 [1, T]
    kv_slots: Tensor  # int64 [T]: block * block_size + offset
    routing: Routing
    attention: AttentionPlan
    logit_index: Tensor  # int64 [>= max(R, 1)]: tokens whose logits are wanted, then padding
    logit_routing: Routing  # of those tokens
    virtual: tuple[VirtualRow, ...] = ()  # tokens without an id, and what is embedded for them
    key: StepKey | None = None  # of the graph that can be replayed for it; None: of none

    @property
    def sampling_rows(self) -> tuple[Row, ...]:
        """The R rows whose logits are wanted, in the order of the logits."""
        return tuple(row for row in self.rows if row.samples)

    @classmethod
    def build(cls, rows: SequenceOf[Row], layout: BatchLayout) -> Batch:
        """Lay out rows (at least one) for a forward pass. Deterministic in the set of rows."""
        ordered = tuple(sorted(rows, key=lambda row: (row.slot, row.sequence.arrival, row.start)))
        columns = _Columns(layout.block_size)
        for row in ordered:
            columns.add(row)
        bucket = layout.bucket(ordered)
        multiple = layout.row_multiple if bucket is None else bucket
        columns.pad(multiple)
        logit_index = columns.logit_index or [0]
        logit_index += logit_index[-1:] * (-len(logit_index) % multiple)
        routing = Routing(tuple(columns.segments))
        logit_routing = Routing.from_slots(columns.slots_of(logit_index))
        tensors = layout.tensors(bucket)
        return cls(
            rows=ordered,
            input_ids=tensors.integers(columns.input_ids)[None],
            positions=tensors.integers(columns.positions)[None],
            kv_slots=tensors.integers(columns.kv_slots),
            routing=routing,
            logit_index=tensors.integers(logit_index),
            attention=tensors.attention(
                (routing, logit_routing), columns.attention
            ),  # the last: it sends all
            key=tensors.key,
            logit_routing=logit_routing,
            virtual=tuple(columns.virtual),
        )


class _Columns:
    """The columns of a batch while rows are being appended."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.input_ids: list[int] = []
        self.positions: list[int] = []
        self.kv_slots: list[int] = []
        self.segments: list[Segment] = []
        self.attention: list[AttentionRow] = []
        self.logit_index: list[int] = []
        self.virtual: list[VirtualRow] = []

    def add(self, row: Row) -> None:
        start = len(self.input_ids)
        sequence, size = row.sequence, self.block_size
        self.input_ids += sequence.ids(row.start, row.stop)
        if row.start < sequence.num_virtual:  # then all of it is, see Sequence.next_counts
            embeddings = virtual_embeddings(sequence.slot, row.start, row.stop)
            self.virtual.append(VirtualRow(start, embeddings))
        self.positions += range(row.start, row.stop)
        self.kv_slots += [
            sequence.blocks[position // size] * size + position % size
            for position in range(row.start, row.stop)
        ]
        blocks = tuple(sequence.blocks[: -(-row.stop // size)])
        self.attention.append(AttentionRow(start, row.count, row.stop, blocks))
        self._extend_segment(row.slot, start)
        if row.samples:
            self.logit_index.append(len(self.input_ids) - 1)

    def pad(self, multiple: int) -> None:
        """Append one-token base rows until the token count is a multiple of `multiple`."""
        start = len(self.input_ids)
        missing = -start % multiple
        if not missing:
            return
        self.input_ids += [0] * missing
        self.positions += [0] * missing
        self.kv_slots += [PADDING_BLOCK * self.block_size] * missing
        for token in range(start, start + missing):
            self.attention.append(AttentionRow(token, 1, 1, (PADDING_BLOCK,)))
        self._extend_segment(0, start)

    def slots_of(self, tokens: SequenceOf[int]) -> list[int]:
        """The slot that each of these tokens runs on."""
        starts = [segment.start for segment in self.segments]
        return [self.segments[bisect_right(starts, token) - 1].slot for token in tokens]

    def _extend_segment(self, slot: int, start: int) -> None:
        stop = len(self.input_ids)
        if self.segments and self.segments[-1].slot == slot:
            start = self.segments.pop().start
        self.segments.append(Segment(slot, start, stop))
