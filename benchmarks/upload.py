"""From an upload to its first token, and what the neighbours notice of it.

    .venv/bin/python benchmarks/upload.py [--uploads 8] [--neighbours 4] [--rank 16] [--json FILE]

A `motet serve` process answers over loopback. Each upload is a new adapter on every linear layer,
sent as one multipart form; the reply to it is followed by a completion of one token on it. Uploads
are made first with nothing else to do, then while every neighbour streams tokens from an adapter
of its own. A neighbour's time between two tokens counts as
- quiet, while nothing is uploaded: a pause of `--pause` seconds comes before each upload;
- upload, if any part of it lies between the first byte of a form and the reply to it;
- first token, if any part of it lies between that reply and the first token.
All clients run on the same cores as the server. The one that uploads is a process of its own, with
the lowest priority: it is to take no more from the neighbours than one on another machine would.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

# `kernels.py` beside this file is not the package of that name that bitsandbytes looks for.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import httpx
from motet.engine.base import QuantizedBase, open_base

from benchmarks.motet_process import MotetProcess, motet_process, share_bases
from benchmarks.neighbour import TIMEOUT_S, Gap, Gaps, Neighbour, running
from benchmarks.random_adapters import random_adapter
from benchmarks.uploader import Upload, put, uploader


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch)
        share_bases(data_dir, options.data_dir)
        base = open_base(options.base, cache_dir=data_dir)
        flags = ["--base", options.base] if options.base else []
        with motet_process(data_dir, *flags) as server:
            result = _measure(server, base, options)
    _print(result, options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="as for motet serve; default: the demo base")
    parser.add_argument("--data-dir", type=Path, default=Path("motet-data"), help="with its base")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--uploads", type=int, default=8, help="of each kind")
    parser.add_argument("--neighbours", type=int, default=4)
    parser.add_argument("--pause", type=float, default=1.5, help="seconds before each upload")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser.parse_args()


def _measure(
    server: MotetProcess, base: QuantizedBase, options: argparse.Namespace
) -> dict[str, object]:
    stop = threading.Event()
    # Made beforehand: the arithmetic would slow the neighbours.
    files = [
        random_adapter(base, rank=options.rank, seed=seed)
        for seed in range(2 * options.uploads + 1)
    ]
    with (
        httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client,
        uploader(server.url, files) as upload,
    ):
        upload()  # what is imported and allocated once
        alone = [upload() for _ in range(options.uploads)]
        neighbours = []
        for index in range(options.neighbours):
            name = f"neighbour-{index}"
            put(client, name, random_adapter(base, rank=options.rank, seed=1000 + index))
            neighbours.append(Neighbour(server.url, name, stop))
        with running(neighbours, stop):
            time.sleep(options.pause)  # prompts are computed and adapters loaded
            settled = time.monotonic()
            beside = []
            for _ in range(options.uploads):
                time.sleep(options.pause)
                beside.append(upload())
            time.sleep(options.pause)
    gaps = [gap for neighbour in neighbours for gap in neighbour.gaps() if gap[0] >= settled]
    return {
        "base": options.base or "the demo base",
        "rank": options.rank,
        "upload_bytes": sum(map(len, files[0].values())),
        "neighbours": options.neighbours,
        "alone": _times(alone),
        "beside_neighbours": _times(beside),
        "gaps": {name: asdict(one) for name, one in _by_window(gaps, beside).items()},
    }


def _by_window(gaps: list[Gap], uploads: list[Upload]) -> dict[str, Gaps]:
    windows = {
        "upload": [(one.begun, one.accepted) for one in uploads],
        "first token": [(one.accepted, one.first_token) for one in uploads],
    }
    touched = {
        name: [gap for gap in gaps if any(gap[0] < end and begin < gap[1] for begin, end in spans)]
        for name, spans in windows.items()
    }
    busy = {gap for found in touched.values() for gap in found}
    touched = {"quiet": [gap for gap in gaps if gap not in busy], **touched, "all of them": gaps}
    return {name: Gaps.of(found) for name, found in touched.items()}


def _times(uploads: list[Upload]) -> dict[str, float]:
    accepted = [one.accepted - one.begun for one in uploads]
    whole = [one.first_token - one.begun for one in uploads]
    return {
        "upload_median_s": statistics.median(accepted),
        "first_token_median_s": statistics.median(whole),
        "first_token_max_s": max(whole),
    }


def _print(result: dict[str, object], options: argparse.Namespace) -> None:
    size = result["upload_bytes"]
    assert isinstance(size, int)
    print(
        f"{result['base']}, LoRA of rank {options.rank} on every linear layer ({size / 1e6:.1f} MB "
        f"in float32), {options.uploads} uploads each, {options.neighbours} neighbours.\n"
    )
    print("| seconds | upload accepted, median | first token, median | first token, worst |")
    print("|---|---|---|---|")
    for name in ("alone", "beside_neighbours"):
        times = result[name]
        assert isinstance(times, dict)
        cells = " | ".join(f"{value:.3f}" for value in times.values())
        print(f"| {name.replace('_', ' ')} | {cells} |")
    print("\n| between a neighbour's tokens, ms | count | p50 | p99 | worst |")
    print("|---|---|---|---|---|")
    gaps = result["gaps"]
    assert isinstance(gaps, dict)
    for name, one in gaps.items():
        cells = " | ".join(f"{one[key] * 1e3:.1f}" for key in ("p50_s", "p99_s", "max_s"))
        print(f"| {name} | {one['count']} | {cells} |")


if __name__ == "__main__":
    main()
