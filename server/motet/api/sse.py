"""Server-sent events, written by hand: bytes in OpenAI's form, a client that may stall or leave."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Send

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
"""A comment: keeps proxies from closing a quiet stream."""

HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would collect the stream before passing it on
}


class ClientGone(Exception):
    """Nobody is left to answer."""


def event(data: Mapping[str, Any]) -> bytes:
    """One event. JSON has no bare newline, so one data line is enough."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


class EventStream:
    """One reply being streamed. Raises ClientGone once the client stalls for too long."""

    def __init__(self, send: Send, timeout_s: float, abort: Callable[[], None] | None) -> None:
        """`abort` cuts the connection, unsent bytes and all; None where the server has no such."""
        self._send = send
        self._timeout_s = timeout_s
        self._abort = abort

    async def open(self, headers: Mapping[str, str]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in {**HEADERS, **headers}.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Returns when the connection has taken the bytes before these, so at most these wait."""
        await self._bounded({"type": "http.response.body", "body": data, "more_body": True})

    async def close(self) -> None:
        """The end that every stream has, after an error too."""
        await self._bounded({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _bounded(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(message)
        except TimeoutError:
            if self._abort is not None:
                self._abort()
                await asyncio.sleep(0)  # let the server notice that the connection is lost
            raise ClientGone("the client stopped reading") from None
