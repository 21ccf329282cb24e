"""Choosing an implementation, and importing on machines that lack things."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from motet_kernels import select_ops
from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.gpu.gpu_ops import GpuOps

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # import triton now raises ImportError
import torch
import motet_kernels
assert motet_kernels.select_ops(torch.device("cpu")).name.startswith("cpu")
assert not torch.cuda.is_initialized()
try:
    motet_kernels.select_ops(torch.device("cuda"))
except RuntimeError as error:
    assert "pip install triton" in str(error)
else:
    raise SystemExit("no Triton and no error")
"""


def test_by_device() -> None:
    assert select_ops(torch.device("cpu")).name.startswith("cpu")
    assert isinstance(select_ops(torch.device("cuda")), GpuOps)
    with pytest.raises(ValueError, match="use cpu or cuda"):
        select_ops(torch.device("meta"))


def test_imports_without_triton() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=True, capture_output=True)


def test_without_a_compiler_torch_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert isinstance(select_ops(torch.device("cpu")), CpuOps)
    assert "no C++ compiler" in caplog.text
