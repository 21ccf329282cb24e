"""A `motet serve` of its own for a benchmark: on a free port, without tenants."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 60.0
_LISTENS = re.compile(r"^curl -s (http://[^/]+)/", re.MULTILINE)
_STARTED = re.compile(r"started +in ([0-9.]+) s")


@dataclass(frozen=True)
class MotetProcess:
    """A server that listens. startup_s: what its start-up panel says."""

    url: str
    pid: int
    startup_s: float

    def resident_bytes(self) -> int:
        """Its resident memory now."""
        return resident_bytes(self.pid)


@contextmanager
def motet_process(data_dir: Path, *flags: str) -> Iterator[MotetProcess]:
    """Serves `data_dir` until the block ends. Raises RuntimeError if it does not start."""
    log = data_dir / "benchmark.log"
    motet = str(Path(sys.executable).with_name("motet"))
    environment = {k: v for k, v in os.environ.items() if not k.upper().startswith("MOTET_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            [motet, "serve", "--data-dir", str(data_dir), "--port", "0", *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment | {"COLUMNS": "200"},  # the panel, unshortened
        )
    try:
        yield _wait(process, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def resident_bytes(pid: int | str = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} has no resident memory")


def share_bases(data_dir: Path, base_cache: Path) -> None:
    """Let `data_dir` use the quantised bases of another data directory."""
    data_dir.mkdir(parents=True, exist_ok=True)
    bases = data_dir / "bases"
    if not bases.exists() and (base_cache / "bases").is_dir():
        bases.symlink_to((base_cache / "bases").resolve())


def _wait(process: subprocess.Popen[bytes], log: Path) -> MotetProcess:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text(errors="replace")
        found, started = _LISTENS.search(text), _STARTED.search(text)
        if found and started:
            return MotetProcess(found[1], process.pid, float(started[1]))
        time.sleep(0.05)
    raise RuntimeError(f"motet serve did not start:\n{log.read_text(errors='replace')[-2000:]}")
