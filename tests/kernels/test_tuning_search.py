"""The search for a tuning table with made-up times, and one real trial of each section."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import pytest
import torch
from motet_kernels.gpu.architectures import ARCHITECTURES
from motet_kernels.gpu.tuning import SECTIONS, TuningTable
from motet_kernels.gpu.tuning_formula import predicted
from motet_kernels.gpu.tuning_search import OUTPUTS, ROWS, search
from motet_kernels.gpu.tuning_trial import Trials
from triton.runtime.errors import OutOfResources

from tests.support.interpreted import interpreted

START = predicted(ARCHITECTURES["sm_90"], ("Some GPU",), 132)


def searched(seconds: Any) -> TuningTable:
    table = search(START, "made up", seconds)
    assert TuningTable.parse(table.to_json()) == table  # obeys every rule of tables
    assert table.gpus == ("Some GPU",)
    assert table.origin == "measured: made up"
    return table


def test_fastest_configuration_of_each_shape_is_found() -> None:
    wanted = {(rows, outputs): rows for rows in ROWS for outputs in OUTPUTS}

    def seconds(section: str, sizes: Mapping[str, int], config: Any) -> float:
        if section != "linear":
            return 1.0
        wide = 128 if sizes["outputs"] > 4096 else 32
        off = abs(config.block_outputs - wide) + abs(config.num_warps - 4)
        off += abs(config.block_rows - wanted[sizes["rows"], sizes["outputs"]])
        return 1.0 + off + abs(config.num_stages - 3)

    table = searched(seconds)
    for (rows, outputs), block_rows in wanted.items():
        config = table.linear(rows, outputs)
        assert (config.block_rows, config.num_warps, config.num_stages) == (block_rows, 4, 3)
        assert config.block_outputs == (128 if outputs > 4096 else 32)
    assert table.linear(10**5, 10**6) == table.linear(ROWS[-1], OUTPUTS[-1])


def test_what_decides_the_order_of_a_sum_is_one_for_all_shapes() -> None:
    """Even where each shape alone would like another: the least sum of times wins."""

    def seconds(section: str, sizes: Mapping[str, int], config: Any) -> float:
        if section == "linear":  # few rows want 32 outputs by a little, many 64 by a lot
            few = sizes["rows"] == 16
            return {32: 1.0 if few else 5.0, 64: 1.5, 128: 9.0}[int(config.block_outputs)]
        if section == "lowrank":
            return {512: 1.0, 1024: 0.5, 2048: 2.0}[int(config.split_len)]
        if section == "attention":
            return float({64: 256, 128: 512}[sizes["head_size"]] == config.split_len)
        return 1.0

    table = searched(seconds)
    assert {config.block_outputs for config in table.configs("linear")} == {64}
    assert {config.split_len for config in table.configs("lowrank")} == {1024}
    assert {config.split_len for config in table.configs("attention")} == {1024}


def test_configuration_that_does_not_run_is_not_chosen() -> None:
    def seconds(section: str, sizes: Mapping[str, int], config: Any) -> float:
        return inf if config.num_warps > 1 and section in ("linear", "gemv") else 1.0

    table = searched(seconds)
    assert {config.num_warps for config in table.configs("linear")} == {1}
    assert {config.num_warps for config in table.configs("gemv")} == {1}


@pytest.mark.parametrize(
    "error", [OutOfResources(300, 227, "shared memory"), RuntimeError("PassManager::run failed")]
)
def test_trial_that_the_compiler_or_the_gpu_refuses_is_none_of_the_others(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr("motet_kernels.gpu.gpu_ops.GpuOps.adapted_linear", refused)
    trials = Trials(START, torch.device("cpu"), torch.float32, in_features=64, cache_bytes=4096)
    config = next(START.configs("linear"))
    assert trials.seconds("linear", {"rows": 3, "outputs": 32}, config) == inf


@pytest.mark.parametrize("broken", SECTIONS)
def test_section_of_which_nothing_runs_is_named(broken: str) -> None:
    with pytest.raises(RuntimeError, match=f"no configuration of {broken} runs"):
        search(START, "made up", lambda section, sizes, config: inf if section == broken else 1.0)


@interpreted
@pytest.mark.parametrize(
    ("section", "sizes"),
    [
        ("linear", {"rows": 3, "outputs": 32}),
        ("gemv", {"outputs": 32}),
        ("lowrank", {"rows": 2}),
        ("attention", {"head_size": 16}),
    ],
)
def test_trial_runs_the_kernels_of_its_section(
    section: str, sizes: Mapping[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, through the interpreter, at the smallest shapes."""
    monkeypatch.setattr("motet_kernels.gpu.tuning_trial.REPEATS", 1)
    trials = Trials(
        START, torch.device("cpu"), torch.float32, in_features=64, num_keys=17, cache_bytes=4096
    )
    time = trials.seconds(section, sizes, next(START.configs(section)))
    assert 0 < time < inf
