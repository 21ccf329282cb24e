"""docker/health.py against real servers, good, bad and missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parents[2]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a server whose /health answers `status`, and 404 anything else."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def check(port: int, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "docker/health.py")],
        env={"MOTET_PORT": str(port), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_200_is_healthy_and_no_proxy_is_asked() -> None:
    with answering(200) as port:
        assert check(port, http_proxy="http://127.0.0.1:9").returncode == 0


def test_503_is_not() -> None:
    with answering(503) as port:
        done = check(port)
    assert done.returncode == 1
    assert "503" in done.stderr


def test_neither_is_silence() -> None:
    with answering(200) as port:
        """Closed again below: nobody listens there any more."""
    done = check(port)
    assert done.returncode == 1
    assert done.stderr.startswith("not healthy: ")
