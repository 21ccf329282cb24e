"""HTTP by hand, for what well-behaved clients do not do."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.live_server import LiveServer


@dataclass
class RawReply:
    """What came back before the connection ended or went quiet."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return httpx.Response(self.status, content=self.body).json()


@contextmanager
def connection(server: LiveServer, timeout: float = 10) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=timeout) as connected:
        yield connected


def head(
    server: LiveServer, method: str, path: str, headers: Mapping[str, str], tenant: str = "acme"
) -> bytes:
    """A request up to the empty line."""
    lines = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {server.keys[tenant]}",
        **headers,
    }
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode()


def reply(connected: socket.socket) -> RawReply:
    """Reads one reply with a Content-Length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connected)
    raw_head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = raw_head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _some(connected)
    return RawReply(int(status_line.split()[1]), headers, body)


def _some(connected: socket.socket) -> bytes:
    data = connected.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data
