"""The only loop in the program: plan, forward, commit, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import replace

import torch
from motet_adapters import Adapter, Arena

from motet.engine.batch import Batch
from motet.engine.bindings import Bindings
from motet.engine.blocks import BlockPool
from motet.engine.cores import compute_with
from motet.engine.delivery import Delivery
from motet.engine.model import PagedModel
from motet.engine.request import Event, FinishReason, Request
from motet.engine.request_bounds import RequestBounds
from motet.engine.sampler import Sampled, Sampler, SampleRow, TokenCounts
from motet.engine.scheduler import Row, Scheduler, StepLimits
from motet.engine.sequence import Sequence
from motet.engine.sharing import PrefixScope
from motet.engine.stats import EngineStats
from motet.engine.stops import StopStrings
from motet.engine.tokenizer import Tokenizer
from motet.errors import EngineBusy, EngineStopped, RequestRefused

log = logging.getLogger(__name__)

WAIT_S = 0.05
"""How long an idle engine sleeps before it looks again, should nobody wake it."""

MAX_CONSECUTIVE_FAILURES = 3
"""Failed steps in a row after which the engine calls itself broken."""

MIXED_ADAPTERS = 3
"""Adapters, besides a base row, that make a forward pass count as mixed."""


class Engine:
    """Accepts requests from any thread; ends each accepted one in exactly one `Finished` event.

    `submit`, `cancel`, `stats`, `start`, `drain` and `stop` may be called from any thread; all
    else happens on the engine's own. Events are delivered on the engine thread, so a `deliver`
    callback must hand them over and return.
    """

    def __init__(
        self,
        model: PagedModel,
        arena: Arena,
        tokenizer: Tokenizer,
        sampler: Sampler,
        limits: StepLimits,
        *,
        max_waiting: int,
        prefix_scope: PrefixScope = "off",
    ) -> None:
        self._model = model
        self._arena = arena
        self._tokenizer = tokenizer
        self._sampler = sampler
        self._blocks = BlockPool(model.num_blocks, model.layout.block_size)
        self._scheduler = Scheduler(self._blocks, arena, limits, prefix_scope)
        self._bounds = RequestBounds.of(model)
        self._max_waiting = max_waiting
        self._bindings = Bindings(model.bind)
        self._live: dict[str, Sequence] = {}
        self._num_arrivals = 0
        self._counts = Counter[str]()
        self._steps_by_num_adapters = Counter[int]()
        self._failures = 0

        self._changed = threading.Condition()  # guards the five below
        self._inbox: deque[Sequence] = deque()
        self._cancelled: set[str] = set()
        self._accepted: set[str] = set()
        self._accepting = True
        self._stopping = False
        self._healthy = True
        self._num_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # any thread

    @property
    def max_model_len(self) -> int:
        """The most tokens, prompt and completion together, that one request may have."""
        return self.max_len(None)

    def max_len(self, adapter: Adapter | None) -> int:
        """The same of a request on this adapter: its virtual tokens take positions too."""
        return self._bounds.max_len(adapter)

    @property
    def vocab_size(self) -> int:
        return self._bounds.vocab_size

    @property
    def healthy(self) -> bool:
        """Whether the engine thread is alive and its last steps did not all fail."""
        return self._healthy and self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    @contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """Instead of `start`: the caller's thread is the engine's here, and calls `step` itself."""
        own, self._thread = self._thread, threading.current_thread()
        compute_with(self._num_threads)
        try:
            yield
        finally:
            self._thread = own

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> None:
        """Accept a request; its events go to `deliver`, the last one a `Finished`.

        Raises RequestRefused if it can never run, EngineBusy if too many wait, EngineStopped if
        the engine is draining, stopped or broken. Whatever is raised, no event follows.
        """
        if not self.healthy:
            raise EngineStopped("the engine is not running")
        self._bounds.check(request)
        sequence = self._sequence(request, deliver)
        with self._changed:
            if not self._accepting:
                raise EngineStopped("the server is shutting down; send the request again later")
            if len(self._inbox) + len(self._scheduler.waiting) >= self._max_waiting:
                raise EngineBusy(
                    f"{self._max_waiting} requests are waiting already; try again shortly"
                )
            if request.id in self._accepted:
                raise RequestRefused(f"a request with id {request.id} is already running")
            sequence.arrival = self._num_arrivals
            self._num_arrivals += 1
            self._accepted.add(request.id)
            self._inbox.append(sequence)
            self._changed.notify()

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; does nothing if it has ended already."""
        with self._changed:
            if request_id in self._accepted:
                self._cancelled.add(request_id)
                self._changed.notify()

    def wake(self) -> None:
        """Look again now: something outside changed, such as an adapter having been loaded."""
        with self._changed:
            self._changed.notify()

    def stats(self) -> EngineStats:
        sharing = self._scheduler.sharing
        return EngineStats(
            num_waiting=len(self._inbox) + len(self._scheduler.waiting),
            num_running=len(self._scheduler.running),
            num_blocks=self._blocks.num_blocks,
            num_free_blocks=sharing.num_available,
            num_cached_blocks=sharing.cache.num_unused_blocks,
            block_size=self._blocks.block_size,
            num_steps=self._counts["steps"],
            num_mixed_steps=self._counts["mixed_steps"],
            steps_by_num_adapters=dict(self._steps_by_num_adapters),
            num_prompt_tokens=self._counts["prompt_tokens"],
            num_cached_tokens=sharing.num_cached_tokens,
            num_virtual_tokens=self._counts["virtual_tokens"],
            num_generated_tokens=self._counts["generated_tokens"],
            num_preemptions=self._scheduler.num_preemptions,
            num_failed_steps=self._counts["failed_steps"],
            num_isolation_violations=self._counts["isolation_violations"],
            arena=self._arena.stats(),
        )

    def drain(self, timeout_s: float) -> bool:
        """Accept nothing more and let running requests end; whether all did within the time."""
        with self._changed:
            self._accepting = False
            self._changed.notify()
        deadline = time.monotonic() + timeout_s
        while self._accepted and self.healthy and time.monotonic() < deadline:
            time.sleep(WAIT_S)
        return not self._accepted

    def stop(self) -> None:
        """End the thread; requests still running end in an error event."""
        with self._changed:
            self._accepting = False
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    # the engine thread

    def step(self) -> bool:
        """One turn of the loop; False if there was nothing to compute."""
        self._drain_inbox()
        plan = self._scheduler.plan()
        for sequence, message in plan.failed:
            self._end(sequence, "error", message)
        if plan.edits:
            self._model.edit_kv(plan.edits)
        if not plan.rows:
            return False
        rows = self._verified(plan.rows)
        if rows:
            batch = Batch.build(rows, self._model.layout)
            logits = self._model.forward(batch)
            sampling = batch.sampling_rows
            sampled = self._sampler.sample(logits, [_sample_row(row) for row in sampling])
            self._scheduler.commit(plan)
            self._count(batch)
            for row, result in zip(sampling, sampled, strict=True):
                self._take(row.sequence, result)
        return True

    def _run(self) -> None:
        compute_with(self._num_threads)
        try:
            while not self._stopping:
                if not self._safe_step():
                    self._wait()
        finally:
            with self._changed:
                self._accepting = False
            self._healthy = self._healthy and self._stopping
            self._drain_inbox()
            for sequence in tuple(self._live.values()):
                self._drop(sequence, "error", "the server stopped before the request was done")

    def _safe_step(self) -> bool:
        """A step whose failure ends the sequences that ran in it and nothing else."""
        try:
            worked = self.step()
            if worked:  # a step with nothing to do says nothing about the device
                self._failures = 0
            return worked
        except Exception:
            # The edge of the engine: whatever a model, a kernel or a driver raises ends here.
            log.exception("a forward pass failed; its requests end in an error")
            self._counts["failed_steps"] += 1
            self._failures += 1
            for sequence in tuple(self._scheduler.running):
                self._drop(sequence, "error", "the forward pass of this request failed")
            self._scheduler.sharing.clear()  # nobody knows what that pass has left there
            if self._failures >= MAX_CONSECUTIVE_FAILURES:
                self._healthy = False
                raise
            return True

    def _wait(self) -> None:
        if not self._live:
            self._scheduler.audit()
        with self._changed:
            if not (self._inbox or self._cancelled or self._stopping):
                self._changed.wait(WAIT_S if self._live else None)

    def _drain_inbox(self) -> None:
        with self._changed:
            arrived, self._inbox = self._inbox, deque()
            cancelled, self._cancelled = self._cancelled, set()
        for sequence in arrived:
            self._live[sequence.request.id] = sequence
            self._scheduler.add(sequence)
        for request_id in cancelled:
            if request_id in self._live:
                self._drop(self._live[request_id], "cancelled")

    def _verified(self, rows: SequenceOf[Row]) -> list[Row]:
        """The rows that run on their own adapter; a sequence with any other row ends here."""
        self._bindings.update(rows)
        for row in rows:
            if not self._bindings.holds(row) and row.sequence.request.id in self._live:
                self._counts["isolation_violations"] += 1
                log.critical("request %s was not on its own adapter", row.sequence.request.id)
                message = "the request's adapter was not in its slot"
                self._drop(row.sequence, "error", message, forget=True)
        verified = [row for row in rows if row.sequence.request.id in self._live]
        for row in verified:
            row.sequence.ran_on = self._bindings.digest(row.sequence.slot)
        return verified

    def _take(self, sequence: Sequence, sampled: Sampled) -> None:
        if not sampled.ok:
            message = "the model's output for this request was not finite"
            self._drop(sequence, "error", message, forget=True)
            return
        self._counts["generated_tokens"] += 1
        reason = sequence.take(sampled, self._tokenizer.eos_ids)
        if reason is not None:
            self._drop(sequence, reason)

    def _drop(
        self,
        sequence: Sequence,
        reason: FinishReason,
        message: str | None = None,
        *,
        forget: bool = False,
    ) -> None:
        self._scheduler.remove(sequence, forget=forget)
        self._end(sequence, reason, message)

    def _end(self, sequence: Sequence, reason: FinishReason, message: str | None = None) -> None:
        del self._live[sequence.request.id]
        sequence.finish(reason, message)
        with self._changed:
            self._accepted.discard(sequence.request.id)

    def _count(self, batch: Batch) -> None:
        adapters = {row.slot for row in batch.rows if row.slot}
        has_base = any(row.slot == 0 for row in batch.rows)
        self._counts["steps"] += 1
        self._counts["mixed_steps"] += has_base and len(adapters) >= MIXED_ADAPTERS
        for row in batch.rows:
            if row.start < row.sequence.num_virtual:
                self._counts["virtual_tokens"] += row.count
            elif row.start < row.sequence.prompt_end:
                self._counts["prompt_tokens"] += row.count
        self._steps_by_num_adapters[len(adapters)] += 1

    # at submission, on the caller's thread

    def _sequence(self, request: Request, deliver: Callable[[Event], None]) -> Sequence:
        request = replace(request, params=request.params.seeded())
        sequence = Sequence(
            request=request,
            arrival=0,
            deliver=Delivery(request.id, deliver, self.cancel),
            decoder=self._tokenizer.decoder(request.prompt),
            stops=StopStrings(request.params.stop),
            counts=TokenCounts(request.prompt),
        )
        sequence.stretches = self._scheduler.sharing.stretches(sequence)
        return sequence


def _sample_row(row: Row) -> SampleRow:
    sequence = row.sequence
    return SampleRow(params=sequence.request.params, counts=sequence.counts)
