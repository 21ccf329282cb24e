"""`motet serve` as a user starts it: a process of its own, read through its output."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.demo_model import CACHE_DIR, demo_base

_START_TIMEOUT_S = 240.0
_STOP_TIMEOUT_S = 60.0


class CurlRequest(NamedTuple):
    """What the printed curl line would send."""

    url: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class ServerProcess:
    """A server that listens. `lines` is its stdout up to the curl line."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)

    @property
    def curl(self) -> CurlRequest:
        words = shlex.split(self.lines[-1])
        headers = (words[at + 1] for at, word in enumerate(words) if word == "-H")
        pairs = (header.split(": ", 1) for header in headers)
        return CurlRequest(words[2], dict(pairs), json.loads(words[-1]))

    @property
    def url(self) -> str:
        return self.curl.url.partition("/v1/")[0]

    def terminate(self) -> None:
        """Asks it to end, and returns at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(_STOP_TIMEOUT_S)


@contextmanager
def demo_server(data_dir: Path, *flags: str) -> Iterator[ServerProcess]:
    """`motet serve --demo` in `data_dir`, with the demo base of the test cache."""
    demo_base()
    data_dir.mkdir(parents=True, exist_ok=True)
    if not (data_dir / "bases").exists():
        (data_dir / "bases").symlink_to(CACHE_DIR / "bases")
    with server_process("--demo", "--data-dir", str(data_dir), *flags) as server:
        yield server


@contextmanager
def server_process(*flags: str) -> Iterator[ServerProcess]:
    """`motet serve FLAGS` on a free port, once it listens; killed if it still runs at the end."""
    motet = Path(sys.executable).with_name("motet")
    environment = {k: v for k, v in os.environ.items() if not k.upper().startswith("MOTET_")}
    process = subprocess.Popen(
        [motet, "serve", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
        env=environment,
    )
    try:
        yield ServerProcess(process, _lines_up_to_curl(process))
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _lines_up_to_curl(process: "subprocess.Popen[str]") -> list[str]:
    lines: list[str] = []
    # A timer instead of a read with a timeout: pipes have none, and killing ends the read.
    timer = threading.Timer(_START_TIMEOUT_S, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("curl "):
                return lines
    finally:
        timer.cancel()
    raise AssertionError(f"the server ended with {process.wait()} after {lines}")
