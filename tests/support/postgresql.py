"""A PostgreSQL of the tests' own, from Debian's package, on a Unix socket and a loopback port."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_USER = "postgres"


def binaries() -> Path | None:
    """Where the server's programs are; None where PostgreSQL is not installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if debian:
        return debian[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@contextmanager
def postgresql(directory: Path) -> Iterator[str]:
    """The URL of a fresh, empty database. Skips the test where the server is not installed."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    data = directory / "postgresql"
    data.mkdir(mode=0o700)
    as_user = _as_user(data)
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", _USER, "-A", "trust", "-N"]
    subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd="/")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *as_user,
            str(programs / "postgres"),
            *("-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", ""),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        _wait_for(server, [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)])
        yield f"postgresql://{_USER}@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _as_user(data: Path) -> list[str]:
    """PostgreSQL refuses to run as root; then its own user owns the directory."""
    if os.geteuid() != 0:
        return []
    shutil.chown(data, _USER, _USER)
    for parent in data.parents:  # those that pytest has made for its user alone
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]


def _wait_for(server: "subprocess.Popen[bytes]", ready: list[str]) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run(ready, check=False).returncode != 0:
        assert server.poll() is None, "PostgreSQL ended before it was ready"
        assert time.monotonic() < deadline, "PostgreSQL did not become ready"
        time.sleep(0.05)
