"""A real HTTP server on loopback that gives the answers it was told to give."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class ScriptedServer:
    """`answers` maps "METHOD /path" (without query) to (status, JSON value or raw text)."""

    url: str
    answers: dict[str, tuple[int, Any]]
    seen: list[Seen] = field(default_factory=list)


@contextmanager
def scripted_server(answers: dict[str, tuple[int, Any]]) -> Iterator[ScriptedServer]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda: script))
    script = ScriptedServer(f"http://127.0.0.1:{httpd.server_port}", answers)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _handler(script: Any) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            script().seen.append(Seen(self.command, self.path, dict(self.headers), body))
            key = f"{self.command} {self.path.partition('?')[0]}"
            status, value = script().answers.get(key, (404, "nothing here"))
            content = value if isinstance(value, str) else json.dumps(value)
            self.send_response(status)
            self.send_header("content-length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """A test's output is no access log."""

    return Handler
