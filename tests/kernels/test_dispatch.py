"""Choosing an implementation, and importing on machines that lack things."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from motet_kernels import KernelReport, NoFastMath, dispatch, select_kernels, select_ops
from motet_kernels.cpu import native_build
from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.cpu.native_library import FAST_LEVELS, runnable_levels
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.cpu.rounding_ops import RoundingCpuOps
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


def test_fast_math_on_cuda_promises_less() -> None:
    fast = select_kernels(torch.device("cuda"), fast_math=True).ops
    assert fast.row_multiple(torch.bfloat16) == 1  # nobody pads for a promise that is not made
    assert select_ops(torch.device("cuda")).row_multiple(torch.bfloat16) > 1


def runs(monkeypatch: pytest.MonkeyPatch, *levels: str) -> None:
    """Let this be a machine that runs these levels."""
    monkeypatch.setattr(
        dispatch, "runnable_levels", lambda wanted: tuple(one for one in wanted if one in levels)
    )


def test_fast_math_on_a_cpu_rounds_where_that_is_faster() -> None:
    if not shutil.which("c++") or FAST_LEVELS[0] not in runnable_levels(FAST_LEVELS):
        pytest.skip("this machine cannot build or run it")
    selected = select_kernels(torch.device("cpu"), fast_math=True)
    assert isinstance(selected.ops, RoundingCpuOps)
    assert selected.report == KernelReport(f"cpu-native ({FAST_LEVELS[0]})")
    assert not isinstance(select_ops(torch.device("cpu")), RoundingCpuOps)


@pytest.mark.parametrize(
    ("levels", "words"),
    [(("avx512-bf16",), "needs AVX512-VNNI"), (("amx-bf16", "avx512-vnni"), "AMX")],
)
def test_fast_math_is_refused_where_nothing_is_faster(
    monkeypatch: pytest.MonkeyPatch, levels: tuple[str, ...], words: str
) -> None:
    runs(monkeypatch, *levels)
    with pytest.raises(NoFastMath, match=f"{words}.*leave fast_math off"):
        select_kernels(torch.device("cpu"), fast_math=True)


def test_fast_math_chooses_the_kernels_itself() -> None:
    with pytest.raises(NoFastMath, match="cpu_kernels=auto"):
        select_kernels(torch.device("cpu"), "torch", fast_math=True)


@pytest.mark.usefixtures("bare")
def test_fast_math_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NoFastMath, match=r"install g\+\+"):
        select_kernels(torch.device("cpu"), fast_math=True)


def test_a_level_that_is_asked_for_serves_or_is_refused() -> None:
    assert isinstance(select_kernels(torch.device("cpu"), "torch").ops, CpuOps)
    if shutil.which("c++"):
        asked = select_kernels(torch.device("cpu"), "portable")
        assert asked.report == KernelReport("cpu-native (portable)")
        with pytest.raises(ValueError, match="cannot run avx1024"):
            select_kernels(torch.device("cpu"), "avx1024")


def test_imports_without_triton() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=True, capture_output=True)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose cache is empty and that has no prebuilt library; its cache."""
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setenv("MOTET_KERNEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("bare")
def test_without_a_compiler_torch_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    selected = select_kernels(torch.device("cpu"))
    assert isinstance(selected.ops, CpuOps)
    assert selected.report == KernelReport("cpu", "no C++ compiler", "install g++")
    assert "no C++ compiler (no-such-compiler)" in caplog.text


def test_what_a_compiler_says_is_for_the_log(
    bare: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = bare.parent / "broken"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\necho no room left >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    report = select_kernels(torch.device("cpu")).report
    assert f"{compiler} failed: no room left" in caplog.text
    assert report.reason == "the C++ compiler failed"
    assert str(bare.parent) not in f"{report}"


def test_a_cache_that_cannot_be_trusted_is_named_in_the_log_alone(
    bare: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare.mkdir()
    bare.chmod(0o777)
    report = select_kernels(torch.device("cpu")).report
    assert str(bare) in caplog.text
    assert report.reason is not None
    assert str(bare) not in f"{report}"
    assert report.fix == "name a directory of your own in MOTET_KERNEL_CACHE"


def test_on_an_old_processor_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        portable = NativeCpuOps("portable")
    except native_build.BuildFailed as failure:
        pytest.skip(str(failure))
    monkeypatch.setattr(dispatch, "NativeCpuOps", lambda: portable)
    selected = select_kernels(torch.device("cpu"))
    assert isinstance(selected.ops, CpuOps)
    assert selected.report.reason == "the processor has neither AVX2 nor AVX-512"
    assert selected.report.fix is None
