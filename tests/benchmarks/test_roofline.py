"""The arithmetic of the predicted decode steps, on numbers small enough to do by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import roofline
from benchmarks.predicted.step import (
    GPUS,
    LLAMA_3_1_8B,
    NF4_BYTES,
    Engine,
    Gpu,
    Load,
    Model,
    Part,
    parts,
)

GPU = Gpu("small", "sm_90", 2, 1e9, 1e9, 1e12)
MODEL = Model(2, ((64, (32, 16)), (64, (64,))), 100, 64, kv_heads=2, head_size=8)
LOAD = Load(rows=3, adapters=2, rank=4, keys=10)
NF4 = Engine("nf4", NF4_BYTES, lambda rank: rank, lambda gpu, rows, outputs: (8.0, 2))
BF16 = Engine("bf16", 2.0, lambda rank: max(rank, 16), lambda gpu, rows, outputs: (1.5, 4))


def named(load: Load, engine: Engine) -> dict[str, Part]:
    return {part.name: part for part in parts(MODEL, load, engine, GPU)}


def test_linears_are_read_once_and_decoded_for_each_block_of_rows() -> None:
    found = named(LOAD, NF4)["linears 64 to 48"]
    weights = 2 * 64 * 48
    assert found.num_bytes == weights * 0.5625 + 2 * 3 * (64 + 48) * 2
    assert found.instructions == weights * 8.0 * 2  # 3 rows are two blocks of 2
    assert found.flops == 2 * weights * 3
    assert named(LOAD, BF16)["linears 64 to 48"].instructions == weights * 1.5


def test_rows_that_are_padded_go_through_the_linears_alone() -> None:
    padding = replace(NF4, row_multiple=16)
    found, without = named(LOAD, padding), named(LOAD, NF4)
    linears, weights = found["linears 64 to 48"], 2 * 64 * 48
    assert linears.num_bytes == weights * 0.5625 + 2 * 16 * (64 + 48) * 2
    assert linears.instructions == weights * 8.0 * 8
    assert linears.flops == 2 * weights * 16
    assert all(found[name] == without[name] for name in ("adapters", "attention", "lm_head"))


def test_every_step_asked_about_is_in_the_table() -> None:
    table = roofline.table(NF4, BF16, keys=10)
    rows = [line.split(" | ")[:3] for line in table.splitlines()[2:]]
    assert len(rows) == len(GPUS) * 3 * 4
    assert ["| NVIDIA L4", "8", "32"] in rows
    cells = {tuple(line.split(" | ")[:3]): line.split(" | ")[3:] for line in table.splitlines()}
    few, many = cells["| NVIDIA L4", "8", "8"], cells["| NVIDIA L4", "8", "32"]
    assert few == many != cells["| NVIDIA L4", "8", "1"]


def test_adapters_are_read_once_each_at_the_rank_that_the_engine_keeps() -> None:
    sizes = 2 * ((64 + 32) + (64 + 16) + (64 + 64))
    assert named(LOAD, NF4)["adapters"].num_bytes == 2 * 4 * sizes * 2
    assert named(LOAD, BF16)["adapters"].num_bytes == 2 * 16 * sizes * 2
    assert named(LOAD, NF4)["adapters"].flops == 2 * 3 * 4 * sizes
    assert "adapters" not in named(replace(LOAD, adapters=0), NF4)
    assert replace(LOAD, adapters=32).active == 3


def test_rest_of_a_step_is_the_same_for_both() -> None:
    for engine in (NF4, BF16):
        found = named(LOAD, engine)
        assert found["attention"].num_bytes == 3 * 2 * 10 * 2 * 2 * 8 * 2
        assert found["lm_head"].num_bytes == 100 * 64 * 2


@pytest.mark.parametrize(
    ("part", "seconds"),
    [
        (Part("reads", 3e9, 1.0, 1.0), 3.0),
        (Part("issues", 1.0, 4 * 2 * 4 * 32 * 1e9, 1.0), 4.0),
        (Part("multiplies", 1.0, 1.0, 5e12), 5.0),
    ],
)
def test_part_takes_what_is_longest(part: Part, seconds: float) -> None:
    assert part.seconds(GPU) == pytest.approx(seconds)


def test_llama_has_eight_billion_weights() -> None:
    linears = LLAMA_3_1_8B.layers * sum(k * sum(ns) for k, ns in LLAMA_3_1_8B.groups)
    embeddings = 2 * LLAMA_3_1_8B.vocabulary * LLAMA_3_1_8B.hidden
    assert linears + embeddings == pytest.approx(8.03e9, rel=0.001)
    assert LLAMA_3_1_8B.kv_bytes(1) == 128 * 1024  # 128 KiB a token


def test_gpus_are_those_that_tables_are_packaged_for() -> None:
    from_sheet = {gpu.name: gpu.multiprocessors for gpu in GPUS}
    assert from_sheet == {
        "NVIDIA L4": 58,
        "NVIDIA A100-SXM4-80GB": 108,
        "NVIDIA H100 80GB HBM3": 132,
    }
