"""What 10,000 registered adapters cost a server: its start, its memory, a page of its list.

    .venv/bin/python benchmarks/many_adapters.py DIRECTORY [--adapters 10000] [--json FILE]

The adapters (rank 1 on one layer's v_proj, random weights, one tenant) are uploaded into DIRECTORY
through the store, unless an earlier run has: that takes minutes. Then, alternately with nothing and
with all of them registered,
- a process opens the base and then the store: the store's share in seconds and memory;
- `motet serve` is started: seconds until it listens, its memory, and, over loopback, pages of the
  list and the first token of the base or, with adapters, of one that is not on the device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

# `kernels.py` beside this file is not the package of that name that bitsandbytes looks for.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import httpx
import torch
from motet.database import open_database
from motet.engine.base import QuantizedBase, open_base
from motet.engine.runtime import store_directory
from motet.settings import Settings
from motet_adapters import AdapterStore, Limits
from motet_kernels import select_ops

from benchmarks.motet_process import motet_process, resident_bytes, share_bases
from benchmarks.random_adapters import random_adapter

TENANT = "default"
_MIB = 1 << 20


def main() -> None:
    options = _options()
    if options.open:
        print(json.dumps(_open(options.directory)))
        return
    full, empty = options.directory / "full", options.directory / "empty"
    for directory in (full, empty):
        share_bases(directory, options.data_dir)
    _register(full, options.adapters)
    rounds: dict[str, list[dict[str, float]]] = {"empty": [], "full": []}
    for _ in range(options.rounds):
        for name, directory in (("empty", empty), ("full", full)):
            rounds[name].append(
                _opened_by_a_process(directory) | _served(directory, options.adapters)
            )
    result = {
        name: {key: statistics.median(one[key] for one in figures) for key in figures[0]}
        for name, figures in rounds.items()
    }
    _print(result, options.adapters)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("motet-data"), help="with its base")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--open", action="store_true", help="for the benchmark itself")
    return parser.parse_args()


@contextmanager
def _store(directory: Path, base: QuantizedBase) -> Iterator[AdapterStore]:
    settings = Settings(data_dir=directory)
    ops = select_ops(torch.device("cpu"))
    with closing(open_database(settings)) as database:
        store = AdapterStore(
            store_directory(directory),
            base,
            dtype=ops.adapter_dtype(torch.bfloat16),
            limits=Limits(),
            host_bytes=_MIB,
            database=database,
        )
        with closing(store):
            yield store


def _register(directory: Path, num_adapters: int) -> None:
    base = open_base(None, cache_dir=directory)
    with _store(directory, base) as store:
        there = {adapter.name for adapter in store.list(TENANT)}
        for number in range(num_adapters):
            name = f"adapter-{number:06d}"
            if name in there:
                continue
            files = random_adapter(base, rank=1, seed=number, targets=["v_proj"], layers=[0])
            with store.stage() as staging:
                for filename, data in files.items():
                    staging.write(filename, data)
                store.put(TENANT, name, staging)
            if number % 1000 == 999:
                print(f"{number + 1} registered", file=sys.stderr, flush=True)


def _open(directory: Path) -> dict[str, float]:
    base = open_base(None, cache_dir=directory)
    before, begun = resident_bytes(), time.monotonic()
    with _store(directory, base):
        seconds = time.monotonic() - begun
        return {"store_open_s": seconds, "store_mib": (resident_bytes() - before) / _MIB}


def _opened_by_a_process(directory: Path) -> dict[str, float]:
    command = [sys.executable, __file__, str(directory), "--open"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(printed.splitlines()[-1])
    return figures


def _served(directory: Path, num_adapters: int) -> dict[str, float]:
    with (
        motet_process(directory) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        figures = {"start_s": server.startup_s, "resident_mib": server.resident_bytes() / _MIB}
        names = _names(client)
        if len(names) not in (0, num_adapters):
            raise RuntimeError(f"{len(names)} adapters are listed, not {num_adapters}")
        middle = names[len(names) // 2] if names else None
        for limit in (100, 1000):
            for place, after in (("first", None), ("middle", middle)):
                params = {"limit": limit} | ({"after": after} if after else {})
                figures[f"page_{limit}_{place}_ms"] = _milliseconds(_getter(client, params))
        figures["first_token_ms"] = (
            _first_token(client, names[-1] if names else _base(client)) * 1e3
        )
        figures["resident_after_mib"] = server.resident_bytes() / _MIB
        return figures


def _first_token(client: httpx.Client, model: str) -> float:
    """Seconds."""
    body = {"model": model, "prompt": "A baker", "max_tokens": 1}
    begun = time.monotonic()
    client.post("/v1/completions", json=body).raise_for_status()
    return time.monotonic() - begun


def _base(client: httpx.Client) -> str:
    name: str = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
    return name


def _names(client: httpx.Client) -> list[str]:
    names: list[str] = []
    params: dict[str, str] = {}
    while True:
        page = client.get("/v1/adapters", params=params).raise_for_status().json()
        names += [adapter["id"] for adapter in page["data"]]
        if not page["has_more"]:
            return names
        params = {"after": page["last_id"]}


def _getter(client: httpx.Client, params: dict[str, object]) -> Callable[[], object]:
    return lambda: client.get("/v1/adapters", params=params).raise_for_status()  # type: ignore[arg-type]


def _milliseconds(call: Callable[[], object], repeats: int = 15) -> float:
    """The median of several."""
    times = []
    for _ in range(repeats):
        begun = time.monotonic()
        call()
        times.append(time.monotonic() - begun)
    return statistics.median(times) * 1e3


def _print(result: dict[str, dict[str, float]], num_adapters: int) -> None:
    print(f"\n| | none | {num_adapters:,} adapters | difference |")
    print("|---|---|---|---|")
    for key, none in result["empty"].items():
        all_of_them = result["full"][key]
        print(f"| {key} | {none:.2f} | {all_of_them:.2f} | {all_of_them - none:+.2f} |")


if __name__ == "__main__":
    main()
