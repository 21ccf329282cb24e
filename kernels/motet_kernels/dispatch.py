"""The one place that chooses an implementation."""

from __future__ import annotations

import logging

import torch

from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.cpu.native_build import BuildFailed
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.ops import Ops

_log = logging.getLogger(__name__)


def select_ops(device: torch.device) -> Ops:
    """The implementation for a device: NativeCpuOps or CpuOps for "cpu", GpuOps for "cuda".

    The native one is compiled when it is first chosen on a machine. Without a compiler, or on a
    processor with neither AVX2 nor AVX-512, torch serves and the log says why.
    Raises ValueError for another device, and RuntimeError on CUDA without Triton.
    """
    if device.type == "cpu":
        return _cpu_ops()
    if device.type != "cuda":
        raise ValueError(f"there are no kernels for device {device}; use cpu or cuda")
    try:
        # Here and not at the top: Triton is not installed everywhere, and a machine without a GPU
        # has no use for it.
        from motet_kernels.gpu.gpu_ops import GpuOps
    except ImportError as error:
        raise RuntimeError("CUDA needs Triton: pip install triton==3.9.0") from error
    return GpuOps()


def _cpu_ops() -> Ops:
    try:
        ops = NativeCpuOps()
    except BuildFailed as reason:
        _log.warning("torch serves instead of the native kernels: %s", reason)
        return CpuOps()
    if ops.level == "portable":
        _log.warning("torch serves instead of the native kernels: they need AVX2 to be faster")
        return CpuOps()
    return ops
