"""The implementations that every contract test runs on."""

from __future__ import annotations

import os

import pytest
import torch

# Triton reads it when a kernel is decorated, so before any test imports motet_kernels.gpu.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from motet_kernels import Ops, ReferenceOps
from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.gpu.gpu_ops import GpuOps

IMPLEMENTATIONS: dict[str, type] = {"reference": ReferenceOps, "cpu": CpuOps, "gpu": GpuOps}


@pytest.fixture(scope="session")
def implementations() -> dict[str, Ops]:
    """One of each: what an implementation has found out about the machine is kept."""
    return {name: make() for name, make in IMPLEMENTATIONS.items()}


@pytest.fixture(params=["reference", "cpu", "gpu"])
def ops(request: pytest.FixtureRequest, implementations: dict[str, Ops]) -> Ops:
    return implementations[request.param]
