"""An engine without a model: it keeps the contract of `motet.engine.engine.Engine` to the letter
and writes what the test told it to, a piece a step, on a thread of its own."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from motet.engine.request import Event, Finished, FinishReason, LogProb, Request, Token
from motet.engine.stats import EngineStats
from motet.errors import EngineBusy, EngineStopped, RequestRefused
from motet_adapters import Adapter, ArenaStats

DEFAULT_TEXT = "The tenor is the line that all voices share, and each sings its own words above it."
EOS = 256


@dataclass
class _Row:
    request: Request
    deliver: Callable[[Event], None]
    position: int = 0


@dataclass
class ScriptedEngine:
    """`text` is written for every request, `piece_len` characters a token, `step_s` between two.

    With `held` set no step is made. A request for an adapter whose name is in `broken` ends in an
    error. `seen` keeps every accepted request, `cancelled` the ids that were cancelled in time.
    """

    text: str = DEFAULT_TEXT
    piece_len: int = 1
    step_s: float = 0.0
    max_model_len: int = 2048
    vocab_size: int = 257
    max_waiting: int = 1024
    broken: set[str] = field(default_factory=set)
    seen: list[Request] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.healthy = False
        self.held = threading.Event()
        self._changed = threading.Condition()
        self._rows: dict[str, _Row] = {}
        self._cancelled: set[str] = set()
        self._stopping = False
        self._num_steps = 0
        self._thread = threading.Thread(target=self._run, name="scripted-engine", daemon=True)

    @property
    def num_running(self) -> int:
        return len(self._rows)

    def start(self) -> None:
        self.healthy = True
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def crash(self) -> None:
        """The thread ends as it would after failing steps: everyone gets an error."""
        self.healthy = False
        self.stop()

    def max_len(self, adapter: Adapter | None) -> int:
        return self.max_model_len - (adapter.num_virtual_tokens if adapter else 0)

    def submit(self, request: Request, deliver: Callable[[Event], None]) -> None:
        if len(request.prompt) + request.params.max_tokens > self.max_len(request.adapter):
            raise RequestRefused("too long", "context_length_exceeded", "prompt")
        with self._changed:
            if self._stopping or not self.healthy:
                raise EngineStopped("The server is shutting down; send the request again.")
            if len(self._rows) >= self.max_waiting:
                raise EngineBusy("Too many requests are waiting already; try again shortly.")
            assert request.id not in self._rows
            self.seen.append(request)
            self._rows[request.id] = _Row(request, deliver)
            self._changed.notify()

    def cancel(self, request_id: str) -> None:
        with self._changed:
            if request_id in self._rows:
                self._cancelled.add(request_id)
                self._changed.notify()

    def stats(self) -> EngineStats:
        return EngineStats(
            num_waiting=0,
            num_running=len(self._rows),
            num_blocks=100,
            num_free_blocks=75,
            num_cached_blocks=5,
            block_size=16,
            num_steps=self._num_steps,
            num_mixed_steps=3,
            steps_by_num_adapters={0: 5, 4: 7, 16: 1, 40: 2},
            num_prompt_tokens=11,
            num_cached_tokens=17,
            num_virtual_tokens=19,
            num_generated_tokens=13,
            num_preemptions=0,
            num_failed_steps=0,
            num_isolation_violations=0,
            arena=ArenaStats(
                resident=2,
                loading=0,
                pinned=1,
                used_bytes=4096,
                basis_bytes=1024,
                budget_bytes=8192,
                num_loads=9,
                num_failures=0,
                num_evictions=7,
                num_hits=21,
            ),
        )

    def _run(self) -> None:
        while not self._stopping:
            with self._changed:
                if not self._rows or (self.held.is_set() and not self._cancelled):
                    self._changed.wait(0.01)
                cancelled, self._cancelled = self._cancelled, set()
            for request_id in cancelled & set(self._rows):
                self.cancelled.append(request_id)
                self._end(self._rows[request_id], "cancelled")
            if self._rows and not self.held.is_set():
                self._step()
        for row in list(self._rows.values()):
            self._end(row, "error", "the server stopped before the request was done")

    def _step(self) -> None:
        self._num_steps += 1
        for row in list(self._rows.values()):
            adapter = row.request.adapter
            if adapter is not None and adapter.name in self.broken:
                self._end(row, "error", "the model's output for this request was not finite")
                continue
            self._write(row)
        if self.step_s:
            threading.Event().wait(self.step_s)

    def _write(self, row: _Row) -> None:
        params = row.request.params
        start = row.position * self.piece_len
        piece = self.text[start : start + self.piece_len]
        token_id = ord(piece[0]) % 256 if piece else EOS
        row.position += 1
        logprob = _logprob(token_id, params.logprobs)
        row.deliver(Token(row.request.id, token_id, piece, logprob))
        if not piece:
            self._end(row, "stop")
        elif row.position == params.max_tokens:
            self._end(row, "length")

    def _end(self, row: _Row, reason: FinishReason, message: str | None = None) -> None:
        request = row.request
        with self._changed:
            del self._rows[request.id]
        self.ends[reason] += 1
        row.deliver(
            Finished(
                request_id=request.id,
                reason=reason,
                text="",
                prompt_len=len(request.prompt),
                completion_len=row.position,
                message=message,
                adapter_digest=None if request.adapter is None else request.adapter.digest,
                cached_len=len(request.prompt) // 2,
            )
        )


def _logprob(token_id: int, num_top: int | None) -> LogProb | None:
    if num_top is None:
        return None
    top = tuple(((token_id + i) % 256, -0.5 * (i + 1)) for i in range(num_top))
    return LogProb(token_id, -0.5, top)
