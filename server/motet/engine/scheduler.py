"""What runs in the next step: pure bookkeeping, no tensors.

There is no prefill phase and no decode phase (the idea is vLLM's, v1/core/sched/scheduler.py):
a sequence has tokens and a count of computed ones, and a plan hands out rows that let the
second catch up with the first. A row needs three things alike: tokens of the step's budget, KV
blocks, and its adapter on the device. Whoever lacks one is simply not in this step.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

from motet_adapters import AdapterLoadFailed, Slot

from motet.engine.blocks import BlockPool
from motet.engine.kv_edits import KvEdit
from motet.engine.sequence import Sequence
from motet.engine.sharing import PrefixScope, Sharing

PATIENCE = 256
"""Steps a sequence may be passed over for want of an adapter slot before younger ones wait too."""


class SlotSource(Protocol):
    """The part of `motet_adapters.Arena` that planning needs."""

    def acquire(self, digest: str) -> Slot | None: ...

    def release(self, slot: Slot) -> None: ...

    def departed(self) -> Iterable[str]:
        """Digests of adapters that have left the device since this was last asked."""
        ...


@dataclass(frozen=True)
class StepLimits:
    """Bounds of one step. Raises ValueError where they would let a prompt starve."""

    max_num_seqs: int
    max_batch_tokens: int
    chunk_len: int

    def __post_init__(self) -> None:
        if self.max_batch_tokens < self.max_num_seqs + self.chunk_len:
            raise ValueError(
                f"max_batch_tokens ({self.max_batch_tokens}) must be at least max_num_seqs + "
                f"chunk_len ({self.max_num_seqs} + {self.chunk_len}), or decoding rows could "
                "keep every prompt out; raise it or lower one of the others"
            )


@dataclass(frozen=True)
class Row:
    """`count` positions of a sequence from `start` on, run on adapter slot `slot`."""

    sequence: Sequence
    start: int
    count: int
    slot: int

    @property
    def stop(self) -> int:
        return self.start + self.count

    @property
    def samples(self) -> bool:
        """Whether this row's last token is the sequence's last, so that its logits are wanted."""
        return self.stop == self.sequence.length


@dataclass(frozen=True)
class Plan:
    """The rows of one step, and sequences that cannot run at all, with the reason.

    `edits` come before the rows, in order, and whether there are rows or not.
    """

    rows: tuple[Row, ...]
    failed: tuple[tuple[Sequence, str], ...] = ()
    edits: tuple[KvEdit, ...] = ()


class Scheduler:
    """Owns the waiting and the running sequences, both oldest first.

    Not thread-safe: the engine thread owns it.
    """

    def __init__(
        self,
        blocks: BlockPool,
        slots: SlotSource,
        limits: StepLimits,
        prefix_scope: PrefixScope = "off",
    ) -> None:
        self.limits = limits
        self.sharing = Sharing(blocks, limits.chunk_len, prefix_scope)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._slots = slots

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_arrival)

    def remove(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Take a sequence out for good; its blocks and its slot's pin are given back.

        forget: what it computed is not to be found by others, because something is wrong with it.
        """
        if sequence in self.running:
            self._give_back(sequence, forget=forget)
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)

    def plan(self) -> Plan:
        """Rows for the next step: running sequences first, then whoever can join them."""
        self.sharing.forget_adapters(self._slots.departed())
        rows: list[Row] = []
        budget = self.limits.max_batch_tokens
        preempted = False
        for sequence in tuple(self.running):
            if sequence not in self.running:
                continue
            counts = sequence.next_counts(self.limits.chunk_len, budget)
            if not self._make_room(sequence, sum(counts)):
                preempted = True
                continue
            rows += _rows(sequence, counts)
            budget -= sum(counts)
        # Whoever was just preempted would take the freed blocks straight back.
        failed = [] if preempted else self._admit(rows, budget)
        return Plan(tuple(rows), tuple(failed), self.sharing.take_edits())

    def commit(self, plan: Plan) -> None:
        """Record that the plan's rows are in the KV cache, and share what may be shared."""
        for row in plan.rows:
            row.sequence.num_computed = max(row.sequence.num_computed, row.stop)
        for row in plan.rows:
            if row.sequence.blocks:  # else it was removed after the plan was made
                self.sharing.publish(row.sequence)

    def audit(self) -> None:
        """Raise if blocks were lost, or held by anything that is not running."""
        self.sharing.audit(self.running)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Blocks for `count` more tokens, preempting the youngest; False if that was itself."""
        while not self.sharing.grow(sequence, sequence.num_computed + count):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._give_back(sequence)
        self.running.remove(sequence)
        self.add(sequence)
        self.num_preemptions += 1

    def _give_back(self, sequence: Sequence, *, forget: bool = False) -> None:
        self.sharing.detach(sequence, forget=forget)
        if sequence.slot is not None:
            self._slots.release(sequence.slot)
            sequence.slot = None

    def _admit(self, rows: list[Row], budget: int) -> list[tuple[Sequence, str]]:
        """Move waiting sequences to running while there is room; those that never can run."""
        failed: list[tuple[Sequence, str]] = []
        for sequence in tuple(self.waiting):
            if len(self.running) >= self.limits.max_num_seqs:
                break
            self.sharing.attach(sequence)
            # Room for all its tokens, not only for the first chunk: a sequence let in on less
            # would be preempted before it said anything.
            counts = sequence.next_counts(self.limits.chunk_len, budget)
            if not counts or not self.sharing.has_room_for(sequence):
                self.sharing.detach(sequence)
                break
            try:
                is_placed = not self.sharing.must_wait(sequence) and self._place(sequence)
            except AdapterLoadFailed as error:
                self.sharing.detach(sequence)
                self.waiting.remove(sequence)
                failed.append((sequence, str(error)))
                continue
            if not is_placed:
                self.sharing.detach(sequence)
                sequence.num_passes_over += 1
                if sequence.num_passes_over > PATIENCE:
                    break
                continue
            self.waiting.remove(sequence)
            insort(self.running, sequence, key=_arrival)
            self.sharing.begin(sequence)
            counts = sequence.next_counts(self.limits.chunk_len, budget)
            if not self.sharing.grow(sequence, sequence.num_computed + sum(counts)):
                raise RuntimeError("free blocks vanished between the check and the allocation")
            rows += _rows(sequence, counts)
            budget -= sum(counts)
        return failed

    def _place(self, sequence: Sequence) -> bool:
        """Pin the sequence's adapter; False if it is not on the device yet."""
        adapter = sequence.request.adapter
        if adapter is None:
            return True
        sequence.slot = self._slots.acquire(adapter.digest)
        return sequence.slot is not None


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival


def _rows(sequence: Sequence, counts: SequenceOf[int]) -> list[Row]:
    rows, start = [], sequence.num_computed
    for count in counts:
        is_adapted = sequence.slot is not None and start >= sequence.adapted_from
        slot = sequence.slot.index if sequence.slot and is_adapted else 0
        rows.append(Row(sequence, start, count, slot))
        start += count
    return rows
