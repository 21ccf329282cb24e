"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def describe(threads: int) -> dict[str, str]:
    """Words for a reader: GPU if there is one, CPU, what it has of vector instructions, cores,
    memory, date."""
    cpu = _proc("cpuinfo", "model name") or platform.processor()
    present = set(_proc("cpuinfo", "flags").split())
    kib = int((_proc("meminfo", "MemTotal") or "0 kB").split()[0])
    release = platform.release().split("-")[0]
    return {
        **_gpu(),
        "cpu": cpu,
        "instructions": ", ".join(flag for flag in _FLAGS if flag in present),
        "cores": f"{len(os.sched_getaffinity(0))}, {threads} threads used",
        "memory": f"{kib / 1024**2:.0f} GiB",
        "system": f"{platform.system()} {release}, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _gpu() -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def _proc(file: str, key: str) -> str:
    """The first value of `key` in a /proc file of "key: value" lines; empty if there is none."""
    for line in Path("/proc", file).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
