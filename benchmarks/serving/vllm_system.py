"""vLLM's CPU build in bf16, set up as its guide for x86 asks: TCMalloc and Intel OpenMP preloaded.

`make bench-peers` makes the environment it lives in. It is served twice: for adapters, and without
`--enable-lora` for the loads that have none, because that flag turns its compiler off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.serving.child import Child, plain_environment
from benchmarks.serving.completions import complete, free_port, wait_until_ready
from benchmarks.serving.system import Batch, Refused, Run
from benchmarks.serving.workplace import ROOT, Workplace

ENVIRONMENT = ROOT / ".venv-peers"
_PYTHON = ENVIRONMENT / "bin" / "python"
_TCMALLOC = "libtcmalloc_minimal.so.4"
_START_TIMEOUT_S = 900.0
_BASE = "base"
_KV_CACHE_GIB = 2


def is_installed() -> bool:
    return (ENVIRONMENT / ".installed").exists()


class VllmSystem:
    name = "vLLM-CPU"

    def __init__(self, place: Workplace, threads: int, *, stream: bool) -> None:
        self._place = place
        self._threads = threads
        self._stream = stream
        self._servers: dict[bool, _Server] = {}
        self._refusals: dict[str, str] = {}

    def start(self, adapters: Sequence[str]) -> str:
        if not is_installed():
            raise RuntimeError("vLLM is not installed; run `make bench-peers`")
        plain = self._servers[False] = _Server(self._place, self._threads, "vllm", [])
        said = plain.start()
        if adapters:
            flags = ["--enable-lora", "--max-lora-rank", str(self._place.rank)]
            flags += ["--max-loras", str(len(adapters))]
            server = self._servers[True] = _Server(
                self._place, self._threads, "vllm-with-lora", flags
            )
            server.start()
            for name in adapters:
                refusal = server.load(name, self._place.adapter(name))
                if refusal is not None:
                    self._refusals[name] = refusal
        return f"{said}, preloaded: {', '.join(file.name for file in preloads())}"

    def run(self, batch: Batch) -> Run:
        for name in batch.adapters:
            if name in self._refusals:
                raise Refused(self._refusals[name])
        has_adapters = any(name is not None for name in batch.adapters)
        return self._servers[has_adapters].run(batch, stream=self._stream)

    def close(self) -> None:
        for server in self._servers.values():
            server.child.close()


class _Server:
    """One server process of vLLM, stopped but while it is used."""

    def __init__(self, place: Workplace, threads: int, log: str, flags: Sequence[str]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            # `vllm serve` does not start from the distribution that is called vllm-cpu.
            *(str(_PYTHON), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(place.model), "--served-model-name", _BASE, "--dtype", "bfloat16"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *flags,
        ]
        self.child = Child(command, place.log(log), _environment(place, threads))

    def start(self) -> str:
        """Returns once it answers, with its version."""
        with self.child.running():
            wait_until_ready(f"{self.url}/health", self.child, _START_TIMEOUT_S)
            return f"vLLM {httpx.get(f'{self.url}/version').json()['version']}"

    def load(self, name: str, directory: Path) -> str | None:
        """Its reason not to take an adapter; None: taken."""
        body = {"lora_name": name, "lora_path": str(directory)}
        with self.child.running():
            reply = httpx.post(f"{self.url}/v1/load_lora_adapter", json=body, timeout=300.0)
        if reply.status_code == httpx.codes.OK:
            return None
        return str(reply.json()["error"]["message"])

    def run(self, batch: Batch, *, stream: bool) -> Run:
        with self.child.running():
            return complete(self.url, _BASE, batch, stream=stream)


def _environment(place: Workplace, threads: int) -> dict[str, str]:
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return plain_environment() | {
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "LD_PRELOAD": ":".join(str(file) for file in preloads()),
        # By itself it would keep a core for its scheduler, which on two cores is half of all.
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_KVCACHE_SPACE": str(_KV_CACHE_GIB),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CACHE_ROOT": str(place.directory.resolve() / "vllm"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def preloads() -> list[Path]:
    """The libraries its guide asks for. Raises RuntimeError with what to install."""
    folders = (*Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib"))
    tcmalloc = next(
        (folder / _TCMALLOC for folder in folders if (folder / _TCMALLOC).exists()), None
    )
    if tcmalloc is None:
        raise RuntimeError(
            f"vLLM's guide asks for TCMalloc ({_TCMALLOC}), which is not installed; on Debian: "
            "apt-get install libtcmalloc-minimal4"
        )
    openmp = ENVIRONMENT / "lib" / "libiomp5.so"
    if not openmp.exists():
        raise RuntimeError(f"there is no {openmp}; remove {ENVIRONMENT} and run `make bench-peers`")
    return [tcmalloc, openmp]
