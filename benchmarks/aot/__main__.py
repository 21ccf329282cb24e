"""Compiles every GPU kernel for every architecture, prints what came out, and fails on a gate.

    python -m benchmarks.aot [--architectures sm_80 sm_90] [--only WORD] [--sample]
                             [--page docs/kernels.md] [--json FILE]

No GPU is needed. Compilations are kept in Triton's cache (TRITON_CACHE_DIR). Exit code 1: a kernel
does not compile, or a gate found something; each is named with a sentence on standard error.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

import triton
from motet_kernels.gpu.architectures import ARCHITECTURES
from motet_kernels.gpu.kernel_registry import LISTINGS, all_specs
from motet_kernels.gpu.kernel_specs import KernelSpec

from benchmarks.aot import table
from benchmarks.aot.compilation import figures_of
from benchmarks.aot.figures import Figures
from benchmarks.aot.gates import Compiled, mixed_instructions, violations
from benchmarks.report import replaced


def main() -> int:
    options = _options()
    names = options.architectures
    tasks = [
        (name, options.areas, at)
        for name in names
        for at in _chosen(_specs(name, options.areas), options)
    ]
    if not tasks:
        sys.exit("no kernel is chosen: change --only")
    # Forked, so that a worker has Triton and torch without importing them again.
    with ProcessPoolExecutor(_workers(), multiprocessing.get_context("fork")) as pool:
        results = list(pool.map(_compile, tasks))
    compiled, failures = [], []
    for (name, areas, at), result in zip(tasks, results, strict=True):
        spec = _specs(name, areas)[at]
        if isinstance(result, str):
            failures.append(f"{name} {spec.name}: does not compile: {result}")
        else:
            compiled.append(Compiled(spec, ARCHITECTURES[name], result))
    failures += list(_found(compiled))
    text = f"Triton {triton.__version__}, {len(compiled)} compilations.\n\n"
    text += table.markdown(compiled)
    print(text)
    if options.json:
        options.json.write_text(json.dumps([_record(each) for each in compiled], indent=1) + "\n")
    for failure in failures:
        print(failure, file=sys.stderr)
    if options.page and not failures:
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(replaced(page, "aot", text), encoding="utf-8")
    return 1 if failures else 0


def _compile(task: tuple[str, Sequence[str], int]) -> Figures | str:
    """The figures, or the last line of what the compiler said. Kernels cannot be sent to another
    process, so it makes the list itself."""
    name, areas, at = task
    try:
        return figures_of(_specs(name, areas)[at], ARCHITECTURES[name])
    except Exception as error:  # the compiler raises what it likes, and all are to be listed
        return f"{type(error).__name__}: {error}".strip().splitlines()[-1]


def _specs(architecture: str, areas: Sequence[str]) -> list[KernelSpec]:
    listings = [import_module(area).specs for area in areas] or LISTINGS
    return all_specs(ARCHITECTURES[architecture], listings)


def _found(compiled: Sequence[Compiled]) -> Iterator[str]:
    for each in compiled:
        for sentence in violations(each):
            yield f"{each.architecture.name} {each.spec.name}: {sentence}"
    yield from mixed_instructions(compiled)


def _chosen(specs: Sequence[KernelSpec], options: argparse.Namespace) -> Iterator[int]:
    """Positions of the specs that are wanted; with --sample the first of each kernel."""
    seen = set()
    for at, spec in enumerate(specs):
        wanted = options.only in spec.name and (not options.sample or spec.kernel not in seen)
        if wanted:
            seen.add(spec.kernel)
            yield at


def _record(compiled: Compiled) -> dict[str, object]:
    spec, architecture, figures = compiled
    return {
        "kernel": spec.name,
        "kind": spec.kind,
        "architecture": architecture.name,
        "registers": figures.registers,
        "shared_bytes": figures.shared_bytes,
        "instructions_per_weight": compiled.instructions_per_weight,
        "constexprs": {name: str(value) for name, value in spec.constexprs.items()},
    }


def _workers() -> int:
    return len(os.sched_getaffinity(0))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.aot", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES)
    )
    parser.add_argument("--only", default="", help="kernels whose name has this in it")
    parser.add_argument("--sample", action="store_true", help="one entry of each kernel")
    parser.add_argument("--page", type=Path, help="write the table into this page, at its markers")
    parser.add_argument("--json", type=Path, help="write the figures as JSON")
    parser.add_argument(
        "--areas",
        nargs="+",
        default=[],
        help="other modules that list kernels, by specs(tuning), instead of the library's",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
