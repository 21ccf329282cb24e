"""One HTTP request's text in the making: its sequences in the engine, and the events they send."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence

from motet_adapters import Adapter

from motet.api.errors import ClientTooSlow, GenerationFailed
from motet.api.piece import Piece
from motet.api.service import Service
from motet.engine.request import Event, Finished, Request
from motet.errors import EngineStopped
from motet.tenancy.usage import Amount

MAX_PENDING_EVENTS = 256
"""Events per choice that may wait for a client that does not read its stream."""

_COLLECTED_AT_ONCE = 24
_SUBMITTED_AT_ONCE = 16
_CLOSE_TIMEOUT_S = 5.0
_BAD_ENDS = ("error", "cancelled")
_log = logging.getLogger("motet.api")


class ClientGone(Exception):
    """Nobody is left to answer."""


class Generation:
    """Submitted requests and what came back of them. Belongs to the event loop."""

    def __init__(
        self,
        service: Service,
        endpoint: str,
        adapter: Adapter | None,
        requests: Sequence[Request],
        *,
        streamed: bool,
    ) -> None:
        """streamed: `pieces` returns as soon as anything has come; else when all has, or when
        something has gone wrong."""
        self.adapter = adapter
        self._streamed = streamed
        self.num_choices = len(requests)
        self._engine = service.engine
        self._store = service.store
        self._lifecycle = service.lifecycle
        self._courier = service.courier
        self._mail: deque[tuple[Event, float]] = deque()  # and when each was delivered
        self._requests = requests
        self._index = {request.id: index for index, request in enumerate(requests)}
        self._watch = service.metrics.watch(endpoint)
        self._open: set[str] = set()
        self._pending: list[Event] = []
        self._ends: dict[int, Finished] = {}
        self._wake = asyncio.Event()
        self._all_ended = asyncio.Event()
        self._reading = False
        self._failure: Exception | None = None

    async def submit(self) -> None:
        """Hands every request to the engine. What the engine raises ends the whole."""
        for number, request in enumerate(self._requests):
            self._engine.submit(request, self._delivered)
            self._open.add(request.id)
            if number % _SUBMITTED_AT_ONCE == _SUBMITTED_AT_ONCE - 1:
                await asyncio.sleep(0)  # let other clients' tokens through

    async def pieces(self, idle_s: float) -> list[Piece] | None:
        """What has come since the last call, one piece for each choice that has moved.

        Waits for something to come; None after `idle_s` seconds of nothing. Raises what ended
        the whole: ClientGone, EngineStopped, GenerationFailed, ClientTooSlow, AdapterQuarantined.
        """
        if not self._pending and self._failure is None:
            self._reading = True
            try:
                async with asyncio.timeout(idle_s):
                    await self._wake.wait()
            except TimeoutError:
                return None
            finally:
                self._reading = False
        self._wake.clear()
        if self._failure is not None:
            raise self._failure
        events, self._pending = self._pending, []
        return self._by_choice(events)

    def used(self, num_choices_per_prompt: int) -> Amount:
        """What has been computed, a prompt counted once; nothing for a request that never ran."""
        ran = {
            index: end
            for index, end in self._ends.items()
            if end.completion_len or end.reason not in _BAD_ENDS
        }
        prompts = {index // num_choices_per_prompt: end.prompt_len for index, end in ran.items()}
        completion_tokens = sum(end.completion_len for end in ran.values())
        return Amount(1 if ran else 0, sum(prompts.values()), completion_tokens)

    def fail(self, error: Exception) -> None:
        """Ends the whole with `error`: its sequences are cancelled, `pieces` raises."""
        if self._failure is None:
            self._failure = error
        self._cancel()
        self._wake.set()

    async def close(self) -> None:
        """Cancels what still runs and waits until the engine has let go of it.

        Only then may the adapter's lease end. The engine answers at its next step; the bound is
        there so that a broken engine cannot keep a connection open.
        """
        self._cancel()
        if not self._open:
            return
        self._all_ended.clear()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._all_ended.wait()
        except TimeoutError:
            _log.error("the engine did not let go of %d cancelled sequences", len(self._open))

    def _cancel(self) -> None:
        for request_id in self._open:
            self._engine.cancel(request_id)

    def _delivered(self, event: Event) -> None:
        """On the engine's thread. Nobody waits for a whole reply's single tokens, and in each step
        the loop would take a core from the engine for them: they are collected by the dozen."""
        self._mail.append((event, time.monotonic()))
        if self._streamed or isinstance(event, Finished) or len(self._mail) >= _COLLECTED_AT_ONCE:
            self._courier.post(self._collect)

    def _collect(self) -> None:
        while self._mail:
            self._arrived(*self._mail.popleft())

    def _arrived(self, event: Event, at: float) -> None:
        self._pending.append(event)
        if isinstance(event, Finished):
            self._open.discard(event.request_id)
            self._ends[self._index[event.request_id]] = event
            self._watch.finished(event.reason)
            if not self._open:
                self._all_ended.set()
            if not self._open or event.reason in _BAD_ENDS:
                self._wake.set()
        else:
            self._watch.token(event.request_id, at)
        if self._streamed:
            self._wake.set()
        # While nobody reads a stream, the reader waits for the client to take what it was sent.
        unread = self._streamed and not self._reading
        if unread and len(self._pending) > MAX_PENDING_EVENTS * self.num_choices:
            self.fail(ClientTooSlow("The client reads slower than the model writes."))

    def _by_choice(self, events: Sequence[Event]) -> list[Piece]:
        pieces: dict[int, Piece] = {}
        for event in events:
            if isinstance(event, Finished):
                self._check(event)
            index = self._index[event.request_id]
            pieces.setdefault(index, Piece(index)).add(event)
        return [piece for piece in pieces.values() if not piece.silent]

    def _check(self, event: Finished) -> None:
        """Raises unless the sequence ended well, on the adapter it was leased."""
        expected = None if self.adapter is None else self.adapter.digest
        if event.reason in ("stop", "length"):
            if event.adapter_digest != expected:
                self._watch.foreign_answer()
                raise GenerationFailed("The server refused to show an answer of another adapter.")
            return
        if event.reason == "cancelled" or self._lifecycle.draining or not self._engine.healthy:
            raise EngineStopped("The server is shutting down; send the request again.")
        if self.adapter is not None:
            # Found out by this request; the next is refused at once.
            self._store.require_sound(self.adapter.digest)
        message = (event.message or "the server failed on this request").rstrip(".")
        raise GenerationFailed(f"The request could not be finished: {message}.")
