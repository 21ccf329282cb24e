"""Motet, as `motet serve` runs it: adapters uploaded, requests answered over HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import httpx

from benchmarks.motet_process import share_bases
from benchmarks.serving.child import Child, plain_environment
from benchmarks.serving.completions import complete, free_port, wait_until_ready
from benchmarks.serving.system import Batch, Run
from benchmarks.serving.workplace import ADAPTER_FILES, Workplace

_START_TIMEOUT_S = 600.0
_BASE = "base"


class MotetSystem:
    def __init__(
        self, place: Workplace, threads: int, *, stream: bool, fast_math: bool = False
    ) -> None:
        self.name = "Motet --fast-math" if fast_math else "Motet"
        self._fast_math = fast_math
        self._place = place
        self._threads = threads
        self._stream = stream
        self._child: Child | None = None
        self._url = ""

    def start(self, adapters: Sequence[str]) -> str:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        environment = plain_environment() | {"COLUMNS": "200"}  # the panel, unshortened
        share_bases(self._data_dir, self._place.motet_data)
        self._child = Child(self._command(port), self._place.log(self._data_dir.name), environment)
        with self._child.running():
            wait_until_ready(f"{self._url}/ready", self._child, _START_TIMEOUT_S)
            for name in adapters:
                self._upload(name)
        return f"Motet {version('motet')} (NF4, {self._kernels()} kernels)"

    def run(self, batch: Batch) -> Run:
        assert self._child is not None
        with self._child.running():
            return complete(self._url, _BASE, batch, stream=self._stream)

    def close(self) -> None:
        if self._child is not None:
            self._child.close()

    @property
    def _data_dir(self) -> Path:
        """One for each server: a running one locks its own."""
        data_dir = self._place.motet_data
        return data_dir.with_name(f"{data_dir.name}-fast") if self._fast_math else data_dir

    def _command(self, port: int) -> list[str]:
        flags = {
            "--data-dir": str(self._data_dir),
            "--port": str(port),
            "--served-model-name": _BASE,
            "--threads": str(self._threads),
        }
        if self._place.base is not None:
            flags["--base"] = self._place.base
        motet = str(Path(sys.executable).with_name("motet"))
        fast = ["--fast-math"] if self._fast_math else []
        return [motet, "serve", *fast, *(word for flag in flags.items() for word in flag)]

    def _upload(self, name: str) -> None:
        directory = self._place.adapter(name)
        files = {file: (file, (directory / file).read_bytes()) for file in ADAPTER_FILES}
        reply = httpx.put(f"{self._url}/v1/adapters/{name}", files=files, timeout=120.0)
        if reply.status_code != httpx.codes.CREATED:
            raise RuntimeError(f"{name} was not taken: {reply.text}")

    def _kernels(self) -> str:
        """What the start-up panel says of them."""
        assert self._child is not None
        panel = self._child.log.read_text(errors="replace")
        found = re.search(r", ([^,\n]+) kernels", panel)
        return found[1] if found else "unknown"
