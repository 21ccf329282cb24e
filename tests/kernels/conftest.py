"""The implementations that every contract test runs on."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from motet_kernels import Ops, ReferenceOps
from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.cpu.native_library import ALL_LEVELS, FAST_LEVELS, runnable_levels
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.cpu.rounding_ops import RoundingCpuOps
from motet_kernels.gpu.gpu_ops import GpuOps

from tests.support.device_ops import DeviceOps
from tests.support.kernel_cases import ROUNDED_TO_8_BITS, TOLERANCES


def gpu_ops() -> Ops:
    """Through the interpreter, or on the machine's own GPU."""
    if torch.cuda.is_available():
        return DeviceOps(GpuOps(), torch.device("cuda"))
    return GpuOps()


IMPLEMENTATIONS: dict[str, Callable[[], Ops]] = {
    "reference": ReferenceOps,
    "cpu": CpuOps,
    "gpu": gpu_ops,
}


def native_ops(level: str) -> Ops:
    return RoundingCpuOps(level) if level in FAST_LEVELS else NativeCpuOps(level)


@pytest.fixture(scope="session")
def implementations() -> dict[str, Ops]:
    """One of each: what an implementation has found out about the machine is kept.

    The native ones are there for each level that this machine runs, the emulated ones among them,
    under the level's name.
    """
    found: dict[str, Ops] = {name: make() for name, make in IMPLEMENTATIONS.items()}
    if shutil.which("c++"):
        found.update({level: native_ops(level) for level in runnable_levels(ALL_LEVELS)})
    return found


def named(name: str, implementations: dict[str, Ops], monkeypatch: pytest.MonkeyPatch) -> Ops:
    if name not in implementations:
        pytest.skip(f"this machine cannot build or run {name}")
    if name in FAST_LEVELS:
        monkeypatch.setitem(TOLERANCES, torch.bfloat16, ROUNDED_TO_8_BITS)
    return implementations[name]


@pytest.fixture(params=["reference", "cpu", *ALL_LEVELS, "gpu"])
def ops(
    request: pytest.FixtureRequest,
    implementations: dict[str, Ops],
    monkeypatch: pytest.MonkeyPatch,
) -> Ops:
    return named(request.param, implementations, monkeypatch)


@pytest.fixture(params=ALL_LEVELS)
def native(
    request: pytest.FixtureRequest,
    implementations: dict[str, Ops],
    monkeypatch: pytest.MonkeyPatch,
) -> Ops:
    """The native implementation at each level."""
    return named(request.param, implementations, monkeypatch)
