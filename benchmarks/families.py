"""Tokens per second of every family of adapters beside LoRA of rank 16, and tenants' memory.

    .venv/bin/python benchmarks/families.py [--rounds 3] [--only NAME ...] [--json FILE]

Each family has an adapter of rank 16 (where it has a rank) on all seven projections, written as in
tests/test_families.py, in four versions that differ; 16 requests, four on each, run at once in one
engine. LoRA runs before and after each family in the same process, and the ratio is to the mean of
the two: machines drift.

The memory is what an arena really holds: 1,000 tenants of each family over a shared basis, and 50
of LoRA.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

# `kernels.py` beside this file is not the package of that name that bitsandbytes looks for.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from motet.engine.request import Event, Finished, Request, SamplingParams
from motet.engine.runtime import Runtime, open_runtime
from motet.settings import Settings
from motet_adapters import Adapter, Arena
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.report import replaced
from benchmarks.serving.machine import describe
from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from tests.support.dense_model import dense_model
from tests.support.family_cases import INVOCATION, make, names

BASELINE = "lora"
SHARED = ("vera", "pvera", "svf", "svft", "lora-xs")
RANK = 16
NUM_ROWS, NUM_VERSIONS = 16, 4
PROMPT_LEN, NUM_TOKENS = 32, 48
MANY_TENANTS, FEW_TENANTS = 1000, 50
_numbers = count()


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch, _runtime(options.data_dir, Path(scratch)) as run:
        adapters, refused = _adapters(run, Path(scratch), options.only or names())
        speeds = {
            name: _paired(run, adapters[BASELINE], versions, options.rounds)
            for name, versions in adapters.items()
        }
        memory = _memory(run, {name: adapters[name][0] for name in adapters})
    result = {"speed": speeds, "memory": memory, "refused": refused}
    if options.only and options.json and options.json.exists():
        result = _beside(json.loads(options.json.read_text()), result)
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.page:
        page = options.page.read_text(encoding="utf-8")
        section = _markdown(result, options.rounds)
        options.page.write_text(replaced(page, "speeds", section), encoding="utf-8")


def _beside(
    before: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """An earlier run's figures with those of families that were measured again."""
    merged = {kind: before[kind] | new[kind] for kind in new}
    for kind in ("speed", "memory"):
        if BASELINE in before[kind]:
            merged[kind][BASELINE] = before[kind][BASELINE]
    merged["refused"] = {
        name: why for name, why in merged["refused"].items() if name not in merged["speed"]
    }
    return merged


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="families; others keep what --json has of them")
    parser.add_argument("--data-dir", type=Path, default=Path("motet-data"), help="with its base")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--page", type=Path, help="write them between this page's markers")
    return parser.parse_args()


@contextmanager
def _runtime(data_dir: Path, scratch: Path) -> Iterator[Runtime]:
    settings = Settings(
        data_dir=data_dir,
        max_adapter_slots=NUM_VERSIONS * 2,
        max_adapter_rank=4096,
        adapter_device_bytes=4 << 30,
        prefix_cache="off",
    )
    runtime = open_runtime(settings, lambda _doing, _done: None, store_dir=scratch / "store")
    runtime.engine.start()
    try:
        yield runtime
    finally:
        runtime.close()


def _adapters(
    runtime: Runtime, scratch: Path, wanted: list[str]
) -> tuple[dict[str, list[Adapter]], dict[str, str]]:
    """Versions of each family's adapter; and why those that cannot be made here are left out."""
    plain = dense_model(runtime.base)
    made: dict[str, list[Adapter]] = {}
    refused: dict[str, str] = {}
    for name in dict.fromkeys([BASELINE, *wanted]):
        directory = scratch / name
        try:
            make(name, runtime.base, plain, directory, rank=RANK, everywhere=True)
            made[name] = [_upload(runtime, name, directory, v) for v in range(NUM_VERSIONS)]
        except Exception as error:  # a training library's, on a shape that it does not take
            refused[name] = f"{type(error).__name__}: {error}"
            print(f"{name} is left out: {refused[name]}", file=sys.stderr)
    return made, refused


def _upload(runtime: Runtime, name: str, directory: Path, version: int) -> Adapter:
    """The adapter with its floats changed a little, so that each version is one of its own."""
    weights = directory / WEIGHTS_FILE
    changed = directory / f"{version}.safetensors"
    save_file({key: _varied(key, t, version) for key, t in load_file(weights).items()}, changed)
    with runtime.store.stage() as staging:
        staging.write(CONFIG_FILE, (directory / CONFIG_FILE).read_bytes())
        staging.write(WEIGHTS_FILE, changed.read_bytes())
        return runtime.store.put("bench", f"{name}-{version}".replace("_", "-"), staging)


def _varied(key: str, tensor: Tensor, version: int) -> Tensor:
    of_the_base = ("svft_layer.u", "svft_layer.v", "s_pre", "vera_A", "vera_B", "base_layer")
    if not tensor.is_floating_point() or any(part in key for part in of_the_base):
        return tensor
    return tensor * (1 - 0.01 * version)


def _paired(
    runtime: Runtime, baseline: list[Adapter], versions: list[Adapter], rounds: int
) -> dict[str, float]:
    _tokens_per_s(runtime, versions)  # loads and virtual tokens are not what is measured
    ratios, speeds = [], []
    for _ in range(rounds):
        before = _tokens_per_s(runtime, baseline)
        speeds.append(_tokens_per_s(runtime, versions))
        after = _tokens_per_s(runtime, baseline)
        ratios.append(speeds[-1] / ((before + after) / 2))
    return {"tokens_per_s": statistics.median(speeds), "ratio": statistics.median(ratios)}


def _tokens_per_s(runtime: Runtime, adapters: list[Adapter]) -> float:
    """Generated tokens of NUM_ROWS requests, prompts included in the time."""
    ends: list[Finished] = []

    def deliver(event: Event) -> None:
        if isinstance(event, Finished):
            ends.append(event)

    started = time.perf_counter()
    for row in range(NUM_ROWS):
        runtime.engine.submit(_request(adapters[row % len(adapters)], row), deliver)
    while len(ends) < NUM_ROWS:
        time.sleep(0.001)
    seconds = time.perf_counter() - started
    if any(end.reason != "length" for end in ends):
        raise RuntimeError(f"a request ended early: {ends[0].reason} {ends[0].message}")
    return NUM_ROWS * NUM_TOKENS / seconds


def _request(adapter: Adapter, row: int) -> Request:
    prompt = [(7 * row + 11 * place) % 30000 + 20 for place in range(PROMPT_LEN)]
    prompt[:2] = INVOCATION
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    return Request(f"bench-{next(_numbers)}", tuple(prompt), params, adapter, adapter.tenant)


def _memory(runtime: Runtime, first: Mapping[str, Adapter]) -> dict[str, int]:
    """Bytes an arena holds of so many tenants' adapters of one family, bases included."""
    counts = {name: MANY_TENANTS for name in SHARED if name in first}
    return {
        name: _held(runtime, adapter, counts.get(name, FEW_TENANTS))
        for name, adapter in first.items()
        if name in counts or name == BASELINE
    }


def _held(runtime: Runtime, adapter: Adapter, num_tenants: int) -> int:
    image = runtime.store.image(adapter.digest)
    digests = [f"{number:064x}" for number in range(num_tenants)]
    arena = Arena(
        lambda digest: replace(image, digest=digest),
        num_bytes=4 << 30,
        num_slots=num_tenants,
        device=torch.device("cpu"),
        on_ready=lambda: None,
    )
    try:
        waiting = set(digests)
        while waiting:
            waiting = {digest for digest in waiting if arena.acquire(digest) is None}
            time.sleep(0.001)
        return arena.stats().used_bytes
    finally:
        arena.close()


def _markdown(result: Mapping[str, Mapping[str, object]], rounds: int) -> str:
    machine = "; ".join(describe(torch.get_num_threads()).values())
    lines = [
        f"{machine}; SmolLM2-135M-Instruct; {NUM_ROWS} "
        f"requests of {PROMPT_LEN} tokens over {NUM_VERSIONS} adapters, {NUM_TOKENS} generated "
        f"each, prompts included; median of {rounds} rounds.",
        "",
        "| family | tokens/s | of LoRA r=16 |",
        "|---|---|---|",
    ]
    for name, figures in result["speed"].items():
        assert isinstance(figures, dict)
        lines.append(f"| {name} | {figures['tokens_per_s']:.0f} | {figures['ratio']:.2f} |")
    lines += ["", "| adapters in an arena, bfloat16 | MB |", "|---|---|"]
    for name, num_bytes in result["memory"].items():
        tenants = FEW_TENANTS if name == BASELINE else MANY_TENANTS
        assert isinstance(num_bytes, int)
        lines.append(f"| {tenants} of {name} | {num_bytes / 1e6:.0f} |")
    return "\n".join(lines)


def _print(result: Mapping[str, Mapping[str, object]]) -> None:
    print(f"{'family':20} {'tokens/s':>9} {'of LoRA r=16':>13}")
    for name, figures in result["speed"].items():
        assert isinstance(figures, dict)
        print(f"{name:20} {figures['tokens_per_s']:9.0f} {figures['ratio']:13.2f}")
    for name, num_bytes in result["memory"].items():
        tenants = FEW_TENANTS if name == BASELINE else MANY_TENANTS
        assert isinstance(num_bytes, int)
        print(f"{tenants} tenants of {name}: {num_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
