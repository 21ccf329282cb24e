"""Predicts decode steps of Llama-3.1-8B on GPUs that nobody here has: bytes and instructions.

    python benchmarks/roofline.py [--keys 1024] [--padded-rank 64] [--page docs/kernels.md]

For Motet and for an engine that keeps the base in bf16 and pads every adapter to one rank.
Instructions per weight are counted in the kernels compiled for each GPU with its tuning table, and
in a plain bf16 linear (predicted/bf16_linear.py); everything else is arithmetic on data sheets
(predicted/step.py). Every figure is a prediction.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

if not __package__:  # run as a file rather than by `python -m benchmarks.roofline`
    sys.path[0] = str(Path(__file__).resolve().parents[1])
if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)  # kernels are compiled, not interpreted

from motet_kernels.gpu.architectures import ARCHITECTURES, Architecture
from motet_kernels.gpu.dense_product import ROW_MULTIPLE
from motet_kernels.gpu.kernel_registry import all_specs
from motet_kernels.gpu.kernel_specs import KernelSpec
from motet_kernels.gpu.tuning_files import packaged_tables

from benchmarks.aot.compilation import figures_of
from benchmarks.aot.gates import Compiled
from benchmarks.predicted.bf16_linear import bf16_spec
from benchmarks.predicted.step import GPUS, LLAMA_3_1_8B, NF4_BYTES, Engine, Gpu, Load, parts
from benchmarks.report import replaced

RANK = 16
ROWS, ADAPTERS = (1, 8, 32), (0, 1, 8, 32)
COLUMNS = ("GPU", "rows", "adapters", "Motet: GB", "10^9 lane-instructions", "ms",
           "bound by", "padded bf16: GB", "10^9 lane-instructions", "ms",
           "ratio of ms")  # fmt: skip


def main() -> None:
    options = _options()
    motet = Engine("Motet", NF4_BYTES, lambda rank: rank, decoding, ROW_MULTIPLE)
    padded = Engine("padded bf16", 2.0, lambda rank: max(rank, options.padded_rank), plain)
    text = f"{assumptions(options)}\n\n{table(motet, padded, options.keys)}"
    print(text)
    if options.page:
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(replaced(page, "roofline", text), encoding="utf-8")


def assumptions(options: argparse.Namespace) -> str:
    """What has to be known to read the table."""
    counted = "; ".join(
        f"{gpu.name} {decoding(gpu, 1, 6144)[0]:.1f} at up to {decoding(gpu, 1, 6144)[1]} rows, "
        f"{decoding(gpu, 32, 6144)[0]:.1f} at 32, in bf16 {plain(gpu, 1, 6144)[0]:.1f} and "
        f"{plain(gpu, 32, 6144)[0]:.1f}"
        for gpu in GPUS
    )
    sheets = "; ".join(
        f"{gpu.name} {gpu.bytes_per_s / 1e9:.0f} GB/s, {gpu.multiprocessors} multiprocessors at "
        f"{gpu.clock_hz / 1e9:.4g} GHz, {gpu.flops / 1e12:.0f} TFLOP/s bf16"
        for gpu in GPUS
    )
    return "\n".join(
        f"- {line}"
        for line in (
            "**Predictions, all of them: no figure here was measured on a GPU.** They are least "
            "times, at the peaks of data sheets; no real step reaches them.",
            f"Llama-3.1-8B, {options.keys} keys a row, adapters of rank {RANK} on all seven "
            "projections, rows spread evenly over them. A step reads no adapter that none of its "
            "rows is on: of 32 adapters, 8 rows read 8.",
            f"Data sheets: {sheets}.",
            "Instructions a weight in the inner loop, all of them, counted in the compiled kernels "
            f"(q, k, v): {counted}.",
            "Motet: NF4 base with float32 scales (0.5625 bytes a weight), adapters at their own "
            f"rank, lm_head in bf16, a step's rows padded to a multiple of {ROW_MULTIPLE}. The "
            "other engine: base in bf16, read by a plain Triton kernel, adapters padded to rank "
            f"{options.padded_rank}, no padded rows, the same lm_head and cache.",
            "Counted: weights, adapters, keys and values, the linears' inputs and outputs. Left "
            "out: launches, norms, sampling, the adapters' instructions, and that reading and "
            "computing overlap only in part.",
        )
    )


def table(motet: Engine, padded: Engine, keys: int) -> str:
    lines = [_row(COLUMNS), _row("---" for _ in COLUMNS)]
    for gpu in GPUS:
        for rows in ROWS:
            for adapters in ADAPTERS:
                load = Load(rows, adapters, RANK, keys)
                lines.append(_row(_cells(gpu, load, motet, padded)))
    return "\n".join(lines)


def _cells(gpu: Gpu, load: Load, motet: Engine, padded: Engine) -> Iterator[str]:
    ours = list(parts(LLAMA_3_1_8B, load, motet, gpu))
    theirs = list(parts(LLAMA_3_1_8B, load, padded, gpu))
    ours_s = sum(part.seconds(gpu) for part in ours)
    theirs_s = sum(part.seconds(gpu) for part in theirs)
    reading = sum(part.num_bytes for part in ours) / gpu.bytes_per_s
    yield from (gpu.name, str(load.rows), str(load.adapters))
    yield f"{sum(part.num_bytes for part in ours) / 1e9:.2f}"
    yield f"{sum(part.instructions for part in ours) / 1e9:.0f}"
    yield f"{ours_s * 1e3:.2f}"
    yield "memory" if ours_s < 1.01 * reading else "instructions"
    yield f"{sum(part.num_bytes for part in theirs) / 1e9:.2f}"
    yield f"{sum(part.instructions for part in theirs) / 1e9:.0f}"
    yield f"{theirs_s * 1e3:.2f}"
    yield f"{theirs_s / ours_s:.2f}"


@cache
def decoding(gpu: Gpu, rows: int, outputs: int) -> tuple[float, int]:
    """Instructions per weight of the kernel that its table launches, and rows a block of it has."""
    tuning = next(each for each in packaged_tables() if gpu.name in each.gpus)
    config, fixed = tuning.linear(rows, outputs), tuning.linear(1, outputs)
    architecture = ARCHITECTURES[gpu.architecture]
    spec = next(
        spec
        for spec in all_specs(architecture)
        if _is_launched(spec, config.block_rows, fixed.block_outputs)
    )
    return _counted(spec, architecture), config.block_rows


@cache
def plain(gpu: Gpu, rows: int, outputs: int) -> tuple[float, int]:
    """The same of a linear on bf16 weights, in tiles of as many rows as Motet's."""
    _, block_rows = decoding(gpu, rows, outputs)
    return _counted(bf16_spec(block_rows), ARCHITECTURES[gpu.architecture]), block_rows


def _counted(spec: KernelSpec, architecture: Architecture) -> float:
    compiled = Compiled(spec, architecture, figures_of(spec, architecture))
    assert compiled.instructions_per_weight is not None
    return compiled.instructions_per_weight


def _is_launched(spec: KernelSpec, block_rows: int, block_outputs: int) -> bool:
    constants = spec.constexprs
    return (
        spec.kernel.__name__ == "nf4_tile_kernel"
        and spec.prmt
        and bool(constants["ADAPTED"])
        and (constants["BLOCK_T"], constants["BLOCK_N"]) == (block_rows, block_outputs)
    )


def _row(cells: Iterator[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keys", type=int, default=1024, help="tokens in each row's cache")
    parser.add_argument("--padded-rank", type=int, default=64, help="rank the other engine pads to")
    parser.add_argument("--page", type=Path, help="write the table into this page, at its markers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
