"""Which socket a request came in by: where the operator has a port, the operator's routes are there
alone, and nothing else is."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from motet.api.errors import refusal

_OPERATORS = ("/admin", "/metrics")
_EVERYWHERE = frozenset({"/health", "/ready"})


class Doors:
    """ASGI middleware. admin_port: None where the operator has no port of its own; then every
    route is on the one there is. What is not behind a door looks like a route that is not there.
    """

    def __init__(self, app: ASGIApp, admin_port: int | None) -> None:
        self._app = app
        self._admin_port = admin_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_behind(scope):
            await refusal(HTTPException(404)).response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_behind(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if self._admin_port is None or path in _EVERYWHERE:
            return True
        is_operators = any(path == one or path.startswith(f"{one}/") for one in _OPERATORS)
        came_by_operators: bool = scope["server"][1] == self._admin_port
        return is_operators == came_by_operators
