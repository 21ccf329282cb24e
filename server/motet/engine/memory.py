"""How much memory the KV cache may take where nobody said."""

from __future__ import annotations

import os

import torch

GIB = 1 << 30
CPU_SHARE = 0.25
"""Of the host's free memory: other programs live there too, and pages are touched only in use."""
CPU_MOST = 4 * GIB
CUDA_SHARE = 0.85
"""Of what is free on the device after the weights; the rest is for activations."""


def default_kv_bytes(device: torch.device, reserved: int) -> int:
    """Bytes for the KV cache from what is free now, less `reserved` bytes promised to others."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(int((free - reserved) * CUDA_SHARE), 0)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min(int((free - reserved) * CPU_SHARE), CPU_MOST), 0)
