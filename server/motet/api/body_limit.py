"""No request body is larger than its route allows, or arrives slower than patience lasts."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motet.api.errors import BodyStalled, BodyTooLarge, HeadersTooLarge, refusal
from motet.settings import Settings

UPLOAD_PREFIX = "/v1/adapters/"
# Boundaries and part headers of a multipart upload, on top of the files themselves.
_FRAMING_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 64 * 1024


class BodyLimit:
    """ASGI middleware. Headers or a declared length over their limit are refused at once.

    A chunked body is counted while it is read: the read that crosses the limit raises
    BodyTooLarge inside the route, before the route has seen those bytes.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _head_bytes(scope) > _MAX_HEAD_BYTES:
            await refusal(HeadersTooLarge(_MAX_HEAD_BYTES)).response()(scope, receive, send)
            return
        limit = self._limit(scope)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await refusal(BodyTooLarge(limit)).response()(scope, receive, send)
            return
        body = _Body(receive, limit, self._settings.client_timeout_s)
        await self._app(scope, body.receive, send)

    def _limit(self, scope: Scope) -> int:
        if scope["method"] == "PUT" and scope["path"].startswith(UPLOAD_PREFIX):
            return self._settings.max_upload_bytes + _FRAMING_BYTES
        return self._settings.max_body_bytes


class _Body:
    """`receive`, counted and timed until the body is complete; then as it is."""

    def __init__(self, receive: Receive, limit: int, timeout_s: float) -> None:
        self._receive = receive
        self._limit = limit
        self._timeout_s = timeout_s
        self._num_bytes = 0
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise BodyStalled(self._timeout_s) from None
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._limit:
            raise BodyTooLarge(self._limit)
        self._complete = not message.get("more_body", False)
        return message


def _head_bytes(scope: Scope) -> int:
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    return headers + len(scope["raw_path"]) + len(scope["query_string"])
