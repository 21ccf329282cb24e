"""How much memory the KV cache may take where nobody said."""

from __future__ import annotations

import os
from pathlib import Path

import torch

GIB = 1 << 30
CPU_SHARE = 0.25
"""Of the free memory: other programs live there too, and pages are touched only in use."""
CPU_MOST = 4 * GIB
CUDA_SHARE = 0.85
"""Of what is free on the device after the weights; the rest is for activations."""

CGROUP = Path("/sys/fs/cgroup")


def default_kv_bytes(device: torch.device, reserved: int) -> int:
    """Bytes for the KV cache from what is free now, less `reserved` bytes promised to others.

    Ask when the weights are on the device.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what packing the weights has left in torch's hands
        free, _ = torch.cuda.mem_get_info(device)
        return max(int((free - reserved) * CUDA_SHARE), 0)
    return max(min(int((free_host_bytes() - reserved) * CPU_SHARE), CPU_MOST), 0)


def free_host_bytes(cgroup: Path = CGROUP) -> int:
    """Free memory of the host, or what is left of a container's limit if that is less."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def _number(file: Path) -> int | None:
    """The number in a control file; None where there is no file, or no limit ("max")."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
