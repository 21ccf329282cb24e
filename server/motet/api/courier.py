"""Tells the event loop that the engine thread has something for it."""

import asyncio
from collections import deque
from collections.abc import Callable


class Courier:
    """One for a whole server, so that a step that ends in 64 tokens wakes the loop once."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: deque[Callable[[], None]] = deque()
        self._called = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call on `loop` from now on. Before anything is posted."""
        self._loop = loop

    def post(self, collect: Callable[[], None]) -> None:
        """Have `collect()` called on the loop; calls are made in the order of posting.

        For the engine thread: never blocks.
        """
        self._calls.append(collect)
        # The flag falls before the calls are read, so whoever posts after that calls again.
        if not self._called and self._loop is not None:
            self._called = True
            self._loop.call_soon_threadsafe(self._make_calls)

    def _make_calls(self) -> None:
        self._called = False
        for _ in range(len(self._calls)):
            self._calls.popleft()()
