"""Carries events from the engine thread to the event loop."""

import asyncio
from collections import deque
from collections.abc import Callable

from motet.engine.request import Event

_Mail = tuple[Callable[[Event], None], Event]


class Courier:
    """One for a whole server, so that a step that ends in 64 tokens wakes the loop once."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mail: deque[_Mail] = deque()
        self._called = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on `loop` from now on. Call before anything is posted."""
        self._loop = loop

    def post(self, receive: Callable[[Event], None], event: Event) -> None:
        """Have `receive(event)` called on the loop; events arrive in the order of posting.

        For the engine thread: never blocks.
        """
        self._mail.append((receive, event))
        # The flag falls before the mail is read, so whoever posts after that calls again.
        if not self._called and self._loop is not None:
            self._called = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False
        for _ in range(len(self._mail)):
            receive, event = self._mail.popleft()
            receive(event)
