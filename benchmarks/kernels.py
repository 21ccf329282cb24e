"""The native CPU kernels against torch, bitsandbytes and the machine itself, in one run.

    python benchmarks/kernels.py [--threads 2] [--level avx512-bf16] [--models SmolLM2-135M]
                                 [--rounds 7] [--json FILE]

Linears: us a call, this library's share of what the machine reads per second and of its roofline
(the longer of reading the NF4 weight and doing the arithmetic at the rates measured first), how
many times faster than torch's bf16 `F.linear` and bitsandbytes' 4-bit product, and how many times
could be at most: what the other one takes over the roofline. Weights are rotated so that none is
still in a cache when its turn comes. Then what adapters add, LoRA and DoRA, and what row
independence costs. Contenders alternate and each shows its best round, so that other work on the
machine disturbs all of them alike. With --threads 1 a thread's own CPU time is counted, which other
processes disturb least.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

# Run as a file, this one would be what bitsandbytes gets for Hugging Face's package `kernels`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from motet_kernels.cpu.native_library import FAST_LEVELS, LEVELS
from motet_kernels.cpu.native_ops import NativeCpuOps

from benchmarks.products import tables
from benchmarks.products.adapter_cost import time_adapters
from benchmarks.products.clock import Clock
from benchmarks.products.linears import ROWS, SHAPES, time_linears
from benchmarks.products.peaks import measure_peaks
from benchmarks.products.promise_cost import time_promise
from benchmarks.serving.machine import describe


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    native = NativeCpuOps(options.level)
    clock = Clock(options.threads, options.rounds)
    found = measure_peaks(options.threads, clock)
    document = {
        "machine": describe(options.threads),
        "kernels": native.name,
        "rounds": options.rounds,
        "linears": [],
    }
    print(f"{native.name}, {options.threads} threads, best of {options.rounds}")
    for model in options.models:
        print(f"{model} ...", flush=True)
        document["linears"] += map(asdict, time_linears([model], options.rows, native, clock))
        found = found.better(measure_peaks(options.threads, clock))
    document["peaks"] = asdict(found)
    print(f"{tables.peaks(document)}\n\n{tables.linears(document)}", flush=True)
    document["adapters"] = asdict(time_adapters(native, clock))
    print(f"\n{tables.adapters(document)}", flush=True)
    document["promise"] = [asdict(one) for one in time_promise(options.rows, native, clock)]
    print(f"\n{tables.promise(document)}")
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--level", choices=(*LEVELS, *FAST_LEVELS), default=None)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the results there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
