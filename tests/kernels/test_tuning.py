"""Tuning tables: what is chosen for a shape, which tables are refused, where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from motet_kernels.gpu.architectures import ARCHITECTURES
from motet_kernels.gpu.tuning import SECTIONS, TuningTable
from motet_kernels.gpu.tuning_files import packaged_tables, table_path, tuning_for
from motet_kernels.gpu.tuning_formula import predicted

H100 = ARCHITECTURES["sm_90"]


def stated() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(predicted(H100, ("Some GPU",), 132).to_json())
    return table


def test_first_entry_that_serves_a_shape_is_taken() -> None:
    table = predicted(H100, multiprocessors=100)
    assert table.linear(16, 6400).block_rows == 16
    assert table.linear(17, 6400).block_rows == 32
    assert table.linear(16, 6401).block_outputs > table.linear(16, 6400).block_outputs
    assert table.linear(10**6, 10**6) == table.linears[-1].config


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=str)
def test_formula_reads_sixteen_bytes_a_thread_and_keeps_to_one_instruction(
    architecture: Any,
) -> None:
    table = predicted(architecture)
    for config in table.configs("linear"):
        assert config.block_outputs * 32 >= 16 * architecture.lanes * config.num_warps
        assert config.block_outputs < (architecture.wide_dot_rows or 65) or config.num_warps < 4


def test_table_survives_its_file() -> None:
    table = predicted(H100, ("Some GPU",), 132)
    assert TuningTable.parse(table.to_json()) == table


def test_packaged_tables_are_valid_and_say_that_they_are_predictions() -> None:
    tables = packaged_tables()
    assert {table.architecture for table in tables} == set(ARCHITECTURES)
    for table in tables:
        assert table.gpus
        assert table.origin.startswith("predicted: ")


def change(section: str, entry: int, **values: object) -> dict[str, Any]:
    table = stated()
    table[section][entry].update(values)
    return table


def changed_for_small_heads(section: str, **values: object) -> dict[str, Any]:
    table = stated()
    table[section].insert(0, table[section][0] | {"max_head_size": 64} | values)
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "has the keys gpus, architecture"),
        ([], "has the keys gpus, architecture"),
        (stated() | {"gpus": "H100"}, "list of device names"),
        (stated() | {"origin": "fast"}, 'must begin "predicted: '),
        (stated() | {"origin": 1}, "must be text"),
        (stated() | {"linear": []}, "linear: the last entry must be without limits"),
        (stated() | {"linear": 3}, "linear must be a list"),
        (change("linear", -1, max_rows=64), "linear: the last entry must be without limits"),
        (change("linear", 0, block_rows=24), "block_rows must be a power of two, got 24"),
        (change("linear", 0, num_warps=0), "num_warps must be a whole number from 1, got 0"),
        (change("linear", 0, num_warps=True), "num_warps must be a whole number from 1, got True"),
        (change("linear", 0, colour=1), "an entry of linear has block_outputs"),
        (change("gemv", 0, max_rows=4), "an entry of gemv has"),
        (
            changed_for_small_heads("attention", split_len=512),
            r"attention: split_len decides the order of a sum .*\[256, 512\]",
        ),
    ],
)
def test_table_that_is_none_or_breaks_the_promise_is_refused(table: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuningTable.parse(json.dumps(table))


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="must be JSON"):
        TuningTable.parse("block_rows: 16")


def test_this_machines_table_goes_before_the_packages_and_the_formulas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOTET_KERNEL_CACHE", str(tmp_path))
    gpu = "NVIDIA H100 80GB HBM3"
    packaged = next(table for table in packaged_tables() if gpu in table.gpus)
    assert tuning_for(gpu, H100, 132) == packaged
    assert tuning_for("Unheard-of GPU", H100, 7) == predicted(H100, ("Unheard-of GPU",), 7)

    made_here = stated() | {"gpus": [gpu], "origin": "measured: here"}
    path = table_path(gpu)
    assert path == tmp_path / "tuning" / "nvidia-h100-80gb-hbm3.json"
    path.parent.mkdir()
    path.write_text(json.dumps(made_here))
    assert tuning_for(gpu, H100, 132).origin == "measured: here"
    assert not caplog.records

    path.write_text(json.dumps(made_here | {"architecture": "sm_80"}))
    assert tuning_for(gpu, H100, 132) == packaged
    assert "is not used" in caplog.text


def test_every_section_has_a_table_and_a_way_to_look_it_up() -> None:
    table = predicted(H100)
    for section in SECTIONS:
        assert list(table.configs(section))
        assert callable(getattr(table, section))
