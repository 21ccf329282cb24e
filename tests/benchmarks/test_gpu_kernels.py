"""The GPU benchmarks, as far as they go without a GPU: tables, turns, the refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_kernels
from benchmarks.gpu_products.adapters import AdapterTime
from benchmarks.gpu_products.device_clock import DeviceClock, in_turn
from benchmarks.gpu_products.linears import HeadTime, LinearTime, time_head
from benchmarks.gpu_products.vllm_lora import why_not

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_tables_state_times_and_ratios() -> None:
    linear = LinearTime("tiny", 8, 64, 2, 4e-6, 2e-6, 8e-6, 6e-6)
    assert "| tiny | 8 x 64 | 2 | 4.0 | 2.0 | 8.0 | 6.0 | 2.00 | 1.50 | 2.00 |" in (
        gpu_kernels.linear_table([linear])
    )
    adapter = AdapterTime("tiny", 8, 64, 2, 4e-6, 5e-6, 6e-6, None)
    assert "| tiny | 8 x 64 | 2 | 4.0 | 5.0 | 6.0 |  | 1.25 |" in (
        gpu_kernels.adapter_table([adapter])
    )
    assert "| 2 | 3.0 | 2.0 | 1.50 |" in gpu_kernels.head_table([HeadTime(2, 3e-6, 2e-6)])


def test_contenders_are_called_in_turn_and_timed() -> None:
    calls: list[int] = []
    contender = in_turn([lambda: calls.append(0), lambda: calls.append(1)])
    (seconds,) = DeviceClock(CPU, rounds=3).medians([contender])
    assert calls == [0, 1, 0, 1, 0]
    assert seconds >= 0


def test_head_is_timed_with_and_without_the_promise() -> None:
    times = list(time_head([1, 3], DeviceClock(CPU, rounds=1), shape=(40, 16)))
    assert [each.rows for each in times] == [1, 3]
    assert all(each.promise_s > 0 and each.free_s > 0 for each in times)


def test_absent_vllm_is_explained() -> None:
    reason = why_not()
    assert reason is None or "pip install vllm" in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the benchmark would run")
def test_machine_without_a_gpu_is_refused_with_a_sentence() -> None:
    run = subprocess.run(
        [sys.executable, "benchmarks/gpu_kernels.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "a CUDA device is needed, and torch sees none" in run.stderr
