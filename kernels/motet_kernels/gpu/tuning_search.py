"""Finding a GPU's tuning table by trial: which sizes are tried, and how the fastest are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import inf
from typing import Any

from motet_kernels.gpu.tuning import (
    AttentionConfig,
    Entry,
    GemvConfig,
    LinearConfig,
    LowRankConfig,
    TuningTable,
)

# Seconds of a section's kernels for sizes with a configuration; infinity: it cannot run so.
Timer = Callable[[str, Mapping[str, int], Any], float]

# Shapes that stand for all: a bucket reaches to its size, the last to any.
ROWS = (16, 32, 64)
OUTPUTS = (4096, 8192, 28672)
HEAD_SIZES = (64, 128)


def search(table: TuningTable, origin: str, seconds: Timer) -> TuningTable:
    """The table of the fastest configurations found, for the same GPUs as `table`.

    `table` supplies what is not tried. Sizes that decide the order of a sum are chosen once for
    all shapes, by the sum of their times: so are, for a linear, the outputs of a block and the
    warps, which decide the matrix instruction. Raises RuntimeError if nothing runs at all.
    """
    return replace(
        table,
        origin=f"measured: {origin}",
        linears=tuple(_linears(seconds)),
        gemvs=tuple(_gemvs(seconds)),
        lowranks=(_lowrank(table.lowranks[0].config, seconds),),
        attentions=(_attention(seconds),),
    )


def _linears(seconds: Timer) -> Iterable[Entry[LinearConfig]]:
    for outputs in OUTPUTS:
        best: tuple[float, dict[int, LinearConfig]] = (inf, {})
        for block_outputs, num_warps in product((32, 64, 128), (1, 2, 4, 8)):
            total, chosen = 0.0, {}
            for rows in ROWS:
                tried = [
                    LinearConfig(block_rows, block_outputs, num_warps, num_stages)
                    for block_rows, num_stages in product(ROWS, (2, 3, 4, 5))
                    if block_rows <= rows
                ]
                time, chosen[rows] = _fastest("linear", {"rows": rows, "outputs": outputs}, tried,
                                              seconds)  # fmt: skip
                total += time
            if total < best[0]:
                best = total, chosen
        _must_run("linear", best[0])
        for rows, config in best[1].items():
            limits = {} if rows == ROWS[-1] else {"rows": rows}
            limits |= {} if outputs == OUTPUTS[-1] else {"outputs": outputs}
            yield Entry(limits, config)


def _gemvs(seconds: Timer) -> Iterable[Entry[GemvConfig]]:
    tried = [GemvConfig(*each) for each in product((8, 16, 32, 64), (1, 2, 4))]
    for outputs in OUTPUTS:
        time, config = _fastest("gemv", {"outputs": outputs}, tried, seconds)
        _must_run("gemv", time)
        yield Entry({} if outputs == OUTPUTS[-1] else {"outputs": outputs}, config)


def _lowrank(known: LowRankConfig, seconds: Timer) -> Entry[LowRankConfig]:
    tried = [
        replace(known, split_len=split_len, block_inputs=block_inputs, block_outputs=block_outputs,
                num_warps=num_warps)
        for split_len, block_inputs, block_outputs, num_warps
        in product((512, 1024, 2048), (64, 128), (32, 64, 128), (2, 4))
    ]  # fmt: skip
    shapes = [{"rows": rows} for rows in ROWS]
    return Entry({}, _fastest_overall("lowrank", shapes, tried, seconds))


def _attention(seconds: Timer) -> Entry[AttentionConfig]:
    tried = [
        AttentionConfig(*each)
        for each in product((16, 32), (16, 32, 64), (256, 512, 1024), (2, 4, 8), (1, 2, 3))
    ]
    shapes = [{"head_size": size} for size in HEAD_SIZES]
    return Entry({}, _fastest_overall("attention", shapes, tried, seconds))


def _fastest_overall(
    section: str, shapes: Sequence[Mapping[str, int]], tried: Sequence[Any], seconds: Timer
) -> Any:
    """The configuration whose times for all shapes add up to the least."""
    totals = [sum(seconds(section, shape, config) for shape in shapes) for config in tried]
    _must_run(section, min(totals))
    return tried[totals.index(min(totals))]


def _fastest(
    section: str, sizes: Mapping[str, int], tried: Sequence[Any], seconds: Timer
) -> tuple[float, Any]:
    times = [seconds(section, sizes, config) for config in tried]
    return min(times), tried[times.index(min(times))]


def _must_run(section: str, time: float) -> None:
    if time == inf:
        raise RuntimeError(f"no configuration of {section} runs on this GPU; the log says why")
