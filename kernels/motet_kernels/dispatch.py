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
    if device.type != "cuda":
        raise ValueError(f"there are no kernels for device {device}; use cpu or cuda")
    try:
        # Here and not at the top: Triton is not installed everywhere, and a machine without a GPU
        # has no use for it.
        from motet_kernels.gpu.gpu_ops import GpuOps
    except ImportError as error:
        raise RuntimeError("CUDA needs Triton: pip install triton==3.9.0") from error
    return GpuOps()
