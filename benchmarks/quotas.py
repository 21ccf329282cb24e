"""What a tenant over its tokens per minute costs another one: nothing, or how much.

    .venv/bin/python benchmarks/quotas.py [--seconds 20] [--neighbours 2] [--json FILE]

A `motet serve` process answers over loopback. One tenant streams answers from the base all the
time. The other has a limit that its first request uses up; then, in turns,
- quiet: it does nothing;
- backs off: it asks with the official client, which waits as Retry-After says and asks again;
- hammers: a process of its own, with the lowest priority, sends one request after the other without
  a pause, all refused.
Shown are the first tenant's times between two tokens and to the first one, and how often the
other one was refused. All clients run on the same cores as the server.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.synchronize import Event
from pathlib import Path

# `kernels.py` beside this file is not the package of that name that bitsandbytes looks for.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import httpx
import openai

from benchmarks.motet_process import motet_process, share_bases
from benchmarks.neighbour import TIMEOUT_S, Gap, Gaps, Neighbour, body, running

# What one request of the limited tenant takes, and all it has: with its prompt, more than half.
_TOKENS_PER_MINUTE = 60
_ASKED_TOKENS = 40


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch)
        share_bases(data_dir, options.data_dir)
        keys = [_create(data_dir, name) for name in ("neighbour", "limited")]
        limit = f"tokens_per_minute={_TOKENS_PER_MINUTE}"
        _motet("tenants", "quota", "limited", "--set", limit, data_dir=data_dir)
        flags = ["--base", options.base] if options.base else []
        with motet_process(data_dir, *flags) as server:
            result = _measure(server.url, keys[0], keys[1], options)
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="as for motet serve; default: the demo base")
    parser.add_argument("--data-dir", type=Path, default=Path("motet-data"), help="with its base")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    parser.add_argument("--neighbours", type=int, default=2, help="streams at the same time")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser.parse_args()


def _motet(*words: str, data_dir: Path) -> str:
    command = [str(Path(sys.executable).with_name("motet")), *words, "--data-dir", str(data_dir)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _create(data_dir: Path, tenant: str) -> str:
    """Its key."""
    return _motet("tenants", "create", tenant, data_dir=data_dir)


def _measure(
    url: str, key: str, limited_key: str, options: argparse.Namespace
) -> dict[str, dict[str, object]]:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
        model: str = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
    turns: list[tuple[str, Callable[[], Iterator[Callable[[], int]]] | None]] = [
        ("quiet", None),
        ("backs off", lambda: _backing_off(url, limited_key, model)),
        ("hammers", lambda: _hammering(url, limited_key, model)),
        ("quiet again", None),
    ]
    stop = threading.Event()
    neighbours = [
        Neighbour(url, model, stop, headers, max_tokens=64) for _ in range(options.neighbours)
    ]
    spans: dict[str, tuple[float, float, int]] = {}
    with running(neighbours, stop):
        time.sleep(2.0)
        for name, turn in turns:
            begun = time.monotonic()
            if turn is None:
                time.sleep(options.seconds)
                spans[name] = (begun, time.monotonic(), 0)
                continue
            with contextmanager(turn)() as num_refused:
                begun = time.monotonic()
                time.sleep(options.seconds)
                spans[name] = (begun, time.monotonic(), num_refused())
    gaps = [gap for neighbour in neighbours for gap in neighbour.gaps()]
    firsts = [gap for neighbour in neighbours for gap in neighbour.first_tokens()]
    return {
        name: {
            "refused": num_refused,
            "between_tokens": asdict(Gaps.of(_within(gaps, begun, ended))),
            "first_token": asdict(Gaps.of(_within(firsts, begun, ended))),
        }
        for name, (begun, ended, num_refused) in spans.items()
    }


def _within(gaps: list[Gap], begun: float, ended: float) -> list[Gap]:
    return [gap for gap in gaps if begun <= gap[0] and gap[1] <= ended]


def _backing_off(url: str, key: str, model: str) -> Iterator[Callable[[], int]]:
    """Gives how often it has been refused by then."""
    statuses: list[int] = []
    over = threading.Event()
    http = httpx.Client(
        event_hooks={"response": [lambda reply: statuses.append(reply.status_code)]}
    )
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, http_client=http, max_retries=1)

    def work() -> None:
        while not over.is_set():
            try:
                client.completions.create(model=model, prompt="x", max_tokens=_ASKED_TOKENS)
            except openai.OpenAIError:
                continue

    # A daemon: it may be waiting out a minute when the benchmark has ended.
    threading.Thread(target=work, daemon=True).start()
    try:
        yield lambda: statuses.count(429)
    finally:
        over.set()


def _hammering(url: str, key: str, model: str) -> Iterator[Callable[[], int]]:
    context = multiprocessing.get_context("spawn")
    over, count = context.Event(), context.Value("q", 0)
    process = context.Process(target=_hammer, args=(url, key, model, over, count))
    process.start()
    try:
        while not count.value:
            time.sleep(0.05)
        before = count.value
        yield lambda: count.value - before
    finally:
        over.set()
        process.join()


def _hammer(url: str, key: str, model: str, over: Event, count: object) -> None:
    os.nice(19)  # it is to take no more from the neighbours than one on another machine would
    asked = body(model, max_tokens=_ASKED_TOKENS)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
        while not over.is_set():
            reply = client.post("/v1/completions", json=asked)
            count.value += reply.status_code == 429  # type: ignore[attr-defined]


def _print(result: dict[str, dict[str, object]]) -> None:
    print("| the limited tenant | refused | between tokens, ms: p50 | p99 | first token, ms: p50 |")
    print("|---|---|---|---|---|")
    for name, found in result.items():
        between, first = found["between_tokens"], found["first_token"]
        assert isinstance(between, dict)
        assert isinstance(first, dict)
        times = (between["p50_s"], between["p99_s"], first["p50_s"])
        cells = " | ".join(f"{seconds * 1e3:.1f}" for seconds in times)
        print(f"| {name} | {found['refused']} | {cells} |")


if __name__ == "__main__":
    main()
