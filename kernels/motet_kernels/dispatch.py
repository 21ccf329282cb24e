"""The one place that chooses an implementation."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.cpu.native_build import BuildFailed
from motet_kernels.cpu.native_library import FAST_LEVELS, runnable_levels
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.cpu.rounding_ops import RoundingCpuOps
from motet_kernels.ops import Ops

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KernelReport:
    """Which implementation was chosen and, where it is not its device's fastest, why.

    No path or other detail of the machine is in it; the log has those.
    """

    implementation: str  # its Ops' name
    reason: str | None = None  # what keeps a faster one from serving; None: nothing does
    fix: str | None = None  # what to do about that; None: nothing can be done on this machine


@dataclass(frozen=True)
class Selection:
    """The implementation for a device, and what its operator should know of the choice."""

    ops: Ops
    report: KernelReport


def select_ops(device: torch.device) -> Ops:
    """The implementation for a device, as `select_kernels` chooses it."""
    return select_kernels(device).ops


class NoFastMath(ValueError):
    """fast_math was asked for where no kernel is faster for promising less."""


def select_kernels(
    device: torch.device, cpu_kernels: str = "auto", *, fast_math: bool = False
) -> Selection:
    """The implementation for a device: NativeCpuOps or CpuOps for "cpu", GpuOps for "cuda".

    cpu_kernels: "auto" for the best that runs here; or a level of native_library.py, or "torch",
    and no other will do. It says nothing about CUDA.
    fast_math: on CUDA, give up that a row's bits do not depend on its company (`GpuOps`). On a CPU
    that promise stays, and bf16 inputs of NF4 products are rounded to 8 bits.

    The native one is compiled when it is first chosen on a machine. Without a compiler, or on a
    processor with neither AVX2 nor AVX-512, torch serves; the log and the report say why.
    Raises ValueError for another device or a level that cannot run here, NoFastMath for fast_math
    on a CPU that is no faster with it, BuildFailed for a level that cannot be compiled, and
    RuntimeError on CUDA without Triton.
    """
    if device.type == "cpu":
        if fast_math:
            return _fast_on_cpu(cpu_kernels)
        return _for_cpu() if cpu_kernels == "auto" else _asked_for(cpu_kernels)
    if device.type != "cuda":
        raise ValueError(f"there are no kernels for device {device}; use cpu or cuda")
    try:
        # Here and not at the top: Triton is not installed everywhere, and a machine without a GPU
        # has no use for it.
        from motet_kernels.gpu.gpu_ops import GpuOps
    except ImportError as error:
        raise RuntimeError("CUDA needs Triton: pip install triton==3.9.0") from error
    gpu = GpuOps(fast_math=fast_math)
    return Selection(gpu, KernelReport(gpu.name))


def _for_cpu() -> Selection:
    try:
        native = NativeCpuOps()
    except BuildFailed as failure:
        return _torch_instead(str(failure), failure.reason, failure.fix)
    if native.level == "portable":
        reason = "the processor has neither AVX2 nor AVX-512"
        return _torch_instead(reason, reason, None)
    return Selection(native, KernelReport(native.name))


def _fast_on_cpu(cpu_kernels: str) -> Selection:
    off = "leave fast_math off"
    if cpu_kernels != "auto":
        raise NoFastMath(f"fast_math chooses the CPU kernels itself; set cpu_kernels=auto or {off}")
    try:
        runnable = runnable_levels(("amx-bf16", *FAST_LEVELS))
    except BuildFailed as failure:
        raise NoFastMath(f"fast_math needs native kernels: {failure.fix}, or {off}") from failure
    if "amx-bf16" in runnable:
        raise NoFastMath(
            f"fast_math has no use here: AMX does more with bf16 than VNNI with 8 bits; {off}"
        )
    if not runnable:
        raise NoFastMath(
            "fast_math on a CPU needs AVX512-VNNI and AVX512-BF16, which this processor or "
            f"compiler lacks; {off}"
        )
    native = RoundingCpuOps(runnable[0])
    return Selection(native, KernelReport(native.name))


def _asked_for(cpu_kernels: str) -> Selection:
    ops: Ops = CpuOps() if cpu_kernels == "torch" else NativeCpuOps(cpu_kernels)
    return Selection(ops, KernelReport(ops.name))


def _torch_instead(message: str, reason: str, fix: str | None) -> Selection:
    _log.warning("torch serves instead of the native kernels: %s", message)
    ops = CpuOps()
    return Selection(ops, KernelReport(ops.name, reason, fix))
