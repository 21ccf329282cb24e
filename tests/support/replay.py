"""Requests with known answers through the model, step by step: what the engine does, less chance.

Every token is given beforehand, so a request has the same inputs whatever its logits are, and a
run is told by its seed alone: nothing here depends on the time an adapter takes to load.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from motet.engine.batch import Batch
from motet.engine.bindings import Bindings
from motet.engine.blocks import BlockPool
from motet.engine.request import Event
from motet.engine.runtime import Runtime
from motet.engine.sampler import TokenCounts
from motet.engine.scheduler import Scheduler, StepLimits
from motet.engine.sequence import Sequence as Running
from motet.engine.sharing import PrefixScope
from motet.engine.stops import StopStrings
from motet_adapters import Adapter, Slot
from torch import Tensor

from tests.support.serving import request


@dataclass(frozen=True)
class Script:
    """A request and the tokens it is going to be answered with."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    adapter: Adapter | None

    @property
    def num_tokens(self) -> int:
        """Positions: the adapter's virtual tokens are counted too."""
        num_virtual = self.adapter.num_virtual_tokens if self.adapter else 0
        return num_virtual + len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Conditions:
    """All that may not show in a request's logits, besides the requests it runs with.

    joins: the step before which each request comes in. num_blocks: of the KV cache, for all.
    prefix_scope: whether prompts that begin alike share blocks.
    """

    joins: tuple[int, ...]
    num_threads: int
    limits: StepLimits
    num_blocks: int
    prefix_scope: PrefixScope = "off"


@dataclass(frozen=True)
class Replayed:
    """logits: [len(answer), V] of each request. The rest counts what the run went through."""

    logits: list[Tensor]
    num_mixed_steps: int  # with prompt chunks and single tokens, on adapters and on the base
    num_preemptions: int
    num_cached_tokens: int


class Replayer:
    """Runs scripts on a runtime whose engine is not started: the engine's part is played here."""

    def __init__(self, runtime: Runtime) -> None:
        self._model = runtime.engine._model
        self._bindings = Bindings(self._model.bind)
        self._arena = _PatientArena(runtime)

    @property
    def block_size(self) -> int:
        return self._model.layout.block_size

    def run(self, scripts: Sequence[Script], conditions: Conditions) -> Replayed:
        before = torch.get_num_threads()
        torch.set_num_threads(conditions.num_threads)
        try:
            return self._run(scripts, conditions)
        finally:
            torch.set_num_threads(before)

    def _run(self, scripts: Sequence[Script], conditions: Conditions) -> Replayed:
        pool = BlockPool(conditions.num_blocks, self.block_size)
        scheduler = Scheduler(pool, self._arena, conditions.limits, conditions.prefix_scope)
        sequences = [_sequence(script, index) for index, script in enumerate(scripts)]
        logits: list[list[Tensor]] = [[] for _ in scripts]
        step = num_mixed_steps = num_finished = 0
        while num_finished < len(scripts):
            for sequence, join in zip(sequences, conditions.joins, strict=True):
                if join == step:
                    scheduler.add(sequence)
            plan = scheduler.plan()
            step += 1
            assert not plan.failed
            self._model.edit_kv(plan.edits)
            if not plan.rows:
                continue
            self._bindings.update(plan.rows)
            assert all(self._bindings.holds(row) for row in plan.rows)
            batch = Batch.build(plan.rows, self._model.layout)
            values = self._model.forward(batch)
            scheduler.commit(plan)
            num_mixed_steps += _is_mixed(batch)
            for row, value in zip(batch.sampling_rows, values, strict=True):
                index = row.sequence.arrival
                logits[index].append(value.clone())
                answer = scripts[index].answer
                if row.sequence.num_generated + 1 < len(answer):
                    row.sequence.tokens.append(answer[row.sequence.num_generated])
                else:
                    scheduler.remove(row.sequence)
                    num_finished += 1
        scheduler.audit()
        return Replayed(
            [torch.stack(rows) for rows in logits],
            num_mixed_steps,
            scheduler.num_preemptions,
            scheduler.sharing.num_cached_tokens,
        )


class _PatientArena:
    """The runtime's arena, waited for: who asks for an adapter gets it, unless there's no room."""

    def __init__(self, runtime: Runtime) -> None:
        self._arena = runtime.arena

    def acquire(self, digest: str) -> Slot | None:
        slot = self._arena.acquire(digest)
        while slot is None and self._arena.stats().loading:
            threading.Event().wait(0.0005)
            slot = self._arena.acquire(digest)
        return slot

    def release(self, slot: Slot) -> None:
        self._arena.release(slot)

    def departed(self) -> frozenset[str]:
        return self._arena.departed()


def alone(script: Script, block_size: int) -> Conditions:
    """By itself, the prompt in one piece, on one thread."""
    limits = StepLimits(1, len(script.prompt) + 1, len(script.prompt))
    return Conditions((0,), 1, limits, _least_blocks([script], block_size))


def draw_conditions(seed: int, scripts: Sequence[Script], block_size: int) -> Conditions:
    draw = random.Random(seed)
    max_num_seqs = draw.randint(2, 24)
    chunk_len = draw.choice((1, 2, 3, 5, 8, 16, 33, 64))
    max_batch_tokens = max_num_seqs + chunk_len + draw.randrange(200)
    half = sum(script.num_tokens // block_size + 1 for script in scripts) // 2
    return Conditions(
        joins=tuple(draw.randrange(8) for _ in scripts),
        num_threads=draw.choice((1, 1, 1, 2, 3)),
        limits=StepLimits(max_num_seqs, max_batch_tokens, chunk_len),
        num_blocks=_least_blocks(scripts, block_size) + draw.randint(0, half),
        prefix_scope=draw.choice(("off", "tenant")),
    )


def _least_blocks(scripts: Sequence[Script], block_size: int) -> int:
    """For the longest alone. Virtual tokens that fill no whole block have one of their own."""
    return max(
        -(-(script.num_tokens + 1) // block_size)
        + bool(script.adapter and script.adapter.num_virtual_tokens % block_size)
        for script in scripts
    )


def _sequence(script: Script, arrival: int) -> Running:
    asked = request(script.prompt, script.adapter, max_tokens=len(script.answer))
    return Running(
        request=asked,
        arrival=arrival,
        deliver=_discard,
        decoder=_Silent(),
        stops=StopStrings(()),
        counts=TokenCounts(script.prompt),
    )


def _is_mixed(batch: Batch) -> bool:
    counts = {row.count > 1 for row in batch.rows}
    slots = {row.slot for row in batch.rows}
    return len(counts) > 1 and len(slots) > 2 and 0 in slots


class _Silent:
    """A decoder for answers nobody reads."""

    def push(self, token_id: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


def _discard(_event: Event) -> None:
    """Nothing is delivered: the answers are known."""
