"""The layer that puts OpenAI's rate-limit headers on every reply to a tenant with rate limits."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RateHeaders:
    """ASGI middleware: adds what `scope["state"]["rate_headers"]()` says when the reply begins.

    The gate puts it there, so a request without a known key is told nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            found = scope.get("state", {}).get("rate_headers")
            if message["type"] == "http.response.start" and found is not None:
                MutableHeaders(scope=message).update(found())
            await send(message)

        await self._app(scope, receive, with_headers)
