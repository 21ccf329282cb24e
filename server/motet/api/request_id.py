"""The outermost layer: an id for every request, one log line for it, and the last catch."""

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from motet.api.errors import refusal
from motet.api.metrics import Metrics

_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_log = logging.getLogger("motet.api")
_access_log = logging.getLogger("motet.access")


class RequestId:
    """ASGI middleware: takes the client's x-request-id if it is well formed, else makes one.

    The id is in `scope["state"]["request_id"]`, in every reply's x-request-id header and in the
    log. An exception that nothing below has told the client becomes a 500 here.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        reply = _Reply(send, request_id)
        started = time.perf_counter()
        try:
            await self._app(scope, receive, reply.send)
        except Exception as error:
            _log.exception("request %s failed", request_id)
            if reply.status is not None:
                # The status line is out: all that is left is to break the connection off.
                raise
            await refusal(error).response()(scope, receive, reply.send)
        finally:
            self._note(scope, reply.status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int | None, seconds: float) -> None:
        template = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.count_reply(scope["method"], template, status)
        _access_log.info(
            "%s %s %s",
            scope["method"],
            scope["raw_path"].decode("ascii", "backslashreplace"),
            status,
            extra={
                "request_id": scope["state"]["request_id"],
                "tenant": scope["state"].get("tenant"),
                "seconds": round(seconds, 4),
            },
        )


class _Reply:
    """Adds the header on the way out and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self._request_id
        await self._send(message)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(16)
