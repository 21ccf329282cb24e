"""The GPU kernels against bitsandbytes, cuBLAS and vLLM's LoRA kernels, on the GPU at hand.

    python benchmarks/gpu_kernels.py [--models Llama-3.1-8B] [--rows 1 8 32] [--rounds 30]
                                     [--json FILE]

Linears: us a call of Motet's NF4 product (the promise of equal bits kept, and given up by
fast_math), bitsandbytes' 4-bit linear and torch's bf16 `F.linear`. Weights take turns so that none
is still in a cache. Adapters: what 8 of rank 16 add to the same linears, LoRA and DoRA, and vLLM's
shrink and expand where vllm is installed beside torch. Last, what the promise costs: the lm_head's
product in blocks of rows against one free product. Median of rounds, timed by CUDA events.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a file rather than by `python -m benchmarks.gpu_kernels`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import triton

from benchmarks.gpu_products.adapters import AdapterTime, time_adapters
from benchmarks.gpu_products.device_clock import DeviceClock
from benchmarks.gpu_products.linears import HeadTime, LinearTime, time_head, time_linears
from benchmarks.gpu_products.vllm_lora import why_not
from benchmarks.products.linears import SHAPES

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def main() -> None:
    options = _options()
    if not torch.cuda.is_available():
        sys.exit(
            "a CUDA device is needed, and torch sees none; benchmarks/kernels.py times the CPU"
        )
    device = torch.device("cuda")
    torch.manual_seed(0)
    clock = DeviceClock(device, options.rounds)
    gpu = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, "
    print(f"{gpu}Triton {triton.__version__}; median of {options.rounds} rounds\n")
    linears, adapters = [], []
    for model in options.models:
        linears += list(time_linears(model, options.rows, clock))
        adapters += list(time_adapters(model, options.rows, clock))
    head = list(time_head(options.rows, clock))
    print(linear_table(linears), adapter_table(adapters), head_table(head), sep="\n\n")
    reason = why_not()
    if reason:
        print(f"\nvLLM's LoRA kernels are left out: {reason}")
    if options.json is not None:
        document = {
            "gpu": torch.cuda.get_device_name(device),
            "linears": [asdict(each) for each in linears],
            "adapters": [asdict(each) for each in adapters],
            "head": [asdict(each) for each in head],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def linear_table(times: Sequence[LinearTime]) -> str:
    rows = (
        (each.model, f"{each.n} x {each.k}", each.rows, _us(each.promise_s), _us(each.fast_math_s),
         _us(each.bitsandbytes_s), _us(each.bf16_s), f"{each.bitsandbytes_s / each.promise_s:.2f}",
         f"{each.bf16_s / each.promise_s:.2f}", f"{each.promise_s / each.fast_math_s:.2f}")
        for each in times
    )  # fmt: skip
    return _table(
        ("model", "N x K", "rows", "Motet, us", "fast_math, us", "bitsandbytes, us", "bf16, us",
         "times faster than bitsandbytes", "than bf16", "cost of the promise"), rows
    )  # fmt: skip


def adapter_table(times: Sequence[AdapterTime]) -> str:
    rows = (
        (each.model, f"{each.n} x {each.k}", each.rows, _us(each.base_s), _us(each.lora_s),
         _us(each.dora_s), "" if each.vllm_lora_s is None else _us(each.vllm_lora_s),
         f"{each.lora_s / each.base_s:.2f}")
        for each in times
    )  # fmt: skip
    return _table(
        ("model", "N x K", "rows", "base, us", "8 LoRA, us", "8 DoRA, us",
         "vLLM's shrink and expand alone, us", "LoRA over base"), rows
    )  # fmt: skip


def head_table(times: Sequence[HeadTime]) -> str:
    rows = (
        (each.rows, _us(each.promise_s), _us(each.free_s), f"{each.promise_s / each.free_s:.2f}")
        for each in times
    )
    return _table(("rows of lm_head", "in blocks, us", "free, us", "cost of the promise"), rows)


def _table(columns: Sequence[str], rows: Iterator[tuple[object, ...]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the results there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
