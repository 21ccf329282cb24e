"""The listening process: uvicorn, a drain before the end, and a connection that can be cut."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from motet.api.log_form import log_config
from motet.api.service import Service
from motet.errors import EngineStopped, InvalidSetting
from motet.settings import Settings
from motet.tenancy.exposure import check_exposure

# After the drain: time for the errors of interrupted streams to be written.
_LAST_WORDS_S = 5
_KEEP_ALIVE_S = 30
_MAX_HEADER_BYTES = 64 * 1024
# Of the settings that say where the sockets of `bind` listen.
_PREFIXES = ("MOTET_", "MOTET_ADMIN_")
_log = logging.getLogger("motet.api")


def run_server(
    app: FastAPI,
    settings: Settings,
    bound: Sequence[socket.socket],
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serves `app`, made by `build_app`, until SIGTERM or SIGINT and a drain have ended it.

    The first signal drains, a second one ends at once. `bound` is from `bind`, and the caller's to
    close. `on_listening` gets the URL once requests are taken.
    Raises InvalidSetting if the server may not or cannot listen as it was told to, EngineStopped if
    the engine failed, so that whoever supervises the process learns of it.
    """
    service: Service = app.state.service
    notice = check_exposure(settings, service.tenancy.tenants)
    for listener, prefix in zip(bound, _PREFIXES, strict=False):
        try:
            listener.listen()
        except OSError as error:  # two processes may have bound it, as long as neither listened
            host, port = listener.getsockname()[:2]
            raise _cannot_listen(host, port, error, prefix) from None
    server = Server(app, settings, on_listening)
    if notice is not None:
        _log.warning(notice)
    server.run(sockets=list(bound))
    if server.engine_failed:
        raise EngineStopped("The engine failed; the log above says why. Start the server again.")


class Server(uvicorn.Server):
    """uvicorn, told to refuse new work and finish the old before it closes its socket."""

    def __init__(
        self, app: FastAPI, settings: Settings, on_listening: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(_config(app, settings))
        service: Service = app.state.service
        self.engine_failed = False
        self._engine = service.engine
        self._lifecycle = service.lifecycle
        self._on_listening = on_listening

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own: it would close the socket at once and raise the signal again later.
        if self._lifecycle.draining:
            self.should_exit = True
        self._lifecycle.begin_drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_listening is not None:
            self._on_listening(_url(self.servers[0].sockets[0]))

    async def on_tick(self, counter: int) -> bool:
        if not self._engine.healthy:
            self.engine_failed = self.should_exit = True
        if self._lifecycle.drained:
            self.should_exit = True
        if self.should_exit:
            self._lifecycle.begin_drain()
            self._lifecycle.interrupt()
        return await super().on_tick(counter)


class Connection(H11Protocol):
    """Lets a route cut its connection: closing it would wait for a client that never reads."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=log_config(settings.log_format),
        # Our own line has the request's id; uvicorn's has the query too.
        access_log=False,
        # The peer is who the socket says. What a header claims is judged in `auth.py`.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_WORDS_S,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )


def bind(settings: Settings) -> list[socket.socket]:
    """Sockets bound as the settings say, not listening yet: who connects is refused. The one of
    the API first, then that of the operator, where there is one.

    Raises InvalidSetting where that can't be, such as where somebody else listens.
    """
    bound = [_bound(settings.host, settings.port, _PREFIXES[0])]
    if settings.admin_port is not None:
        try:
            bound.append(_bound(settings.admin_host, settings.admin_port, _PREFIXES[1]))
        except InvalidSetting:
            bound[0].close()
            raise
    return bound


def _bound(host: str, port: int, prefix: str) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # Of a name's addresses the IPv4 one: it is what people mean by localhost.
        family, kind, proto, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise _cannot_listen(host, port, error, prefix) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error, prefix) from None
    return listener


def _cannot_listen(host: str, port: int, error: OSError, prefix: str) -> InvalidSetting:
    return InvalidSetting(
        f"Cannot listen on {host} port {port}: {error.strerror}. Choose another with {prefix}HOST "
        f"and {prefix}PORT.",
        param=f"{prefix}PORT",
    )


def _url(listener: Any) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
