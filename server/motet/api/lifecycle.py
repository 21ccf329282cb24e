"""Whether the server takes new requests, and which ones are still running."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from motet.api.errors import refusal
from motet.errors import EngineStopped

_ALWAYS_OPEN = frozenset({"/health", "/ready", "/metrics"})


class Interruptible(Protocol):
    """Something running that can be told to end with an error."""

    def fail(self, error: Exception) -> None: ...


class Lifecycle:
    """Serving, then draining. All but `begin_drain` belongs to the event loop."""

    def __init__(self, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._deadline: float | None = None
        self._num_requests = 0
        self._running: set[Interruptible] = set()

    @property
    def draining(self) -> bool:
        return self._deadline is not None

    @property
    def drained(self) -> bool:
        """Whether draining has ended: nothing runs any more, or time is up."""
        if self._deadline is None:
            return False
        return self._num_requests == 0 or time.monotonic() >= self._deadline

    @property
    def num_requests(self) -> int:
        return self._num_requests

    def begin_drain(self) -> None:
        """From now on new requests are refused. Safe in a signal handler; later calls change
        nothing."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_timeout_s

    def interrupt(self) -> None:
        """Ends what is still running, each with an error its client is told."""
        for running in tuple(self._running):
            running.fail(EngineStopped("The server is shutting down; send the request again."))

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts one HTTP request as running."""
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    @contextmanager
    def running(self, work: Interruptible) -> Iterator[None]:
        """Makes `work` reachable for `interrupt` while it runs."""
        self._running.add(work)
        try:
            yield
        finally:
            self._running.discard(work)


class Admission:
    """ASGI middleware: counts requests, and while draining answers new ones 503 + Retry-After."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS_OPEN:
            await self._app(scope, receive, send)
            return
        if self._lifecycle.draining:
            error = EngineStopped("The server is shutting down; send the request again.")
            await refusal(error).response()(scope, receive, send)
            return
        with self._lifecycle.request():
            await self._app(scope, receive, send)
