"""Tokens per second of Motet and of its peers on the same base, requests and adapters.

    make bench ARGS="[--requests 1 8 32] [--adapters 0 1 8 32] [--systems motet vllm] [--rounds 3]"

Every request is greedy, prompts and answers have fixed lengths, and all requests of a load arrive
at once, spread evenly over its adapters. Each system has processes of its own, of which only the
one that answers is running; rounds alternate between the systems, and medians are shown. Motet and
vLLM (`make bench-peers` installs it) are asked over HTTP. PEFT has no server and is called in its
own process. docs/performance.md says what is compared and what it does not show.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

if not __package__:  # run as a file rather than by `python -m benchmarks.serve`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.serving import vllm_system
from benchmarks.serving.load import NUM_ADAPTERS, NUM_REQUESTS, Answers, adapter_names, loads
from benchmarks.serving.machine import describe
from benchmarks.serving.measure import measure
from benchmarks.serving.motet_system import MotetSystem
from benchmarks.serving.peft_system import PeftSystem
from benchmarks.serving.results import Results
from benchmarks.serving.system import System
from benchmarks.serving.table import header, row
from benchmarks.serving.workplace import ROOT, Workplace

SYSTEMS = ("motet", "peft-nf4", "peft-bf16", "vllm")
MORE_SYSTEMS = ("motet-fast",)  # only if named: not every machine has it


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started, like Ctrl-C
    options = _options()
    wanted = list(loads(options.requests, options.adapters))
    names = adapter_names(wanted)
    place = Workplace(options.work_dir.resolve(), options.base, options.rank)
    place.prepare(names)
    results = Results(
        machine=describe(options.threads),
        systems={},
        base=options.base or "SmolLM2-135M-Instruct (the demo base)",
        rank=options.rank,
        answers=Answers(options.prompt_len, options.tokens),
        rounds=options.rounds,
        streamed=options.stream,
    )
    with ExitStack() as running:
        systems = []
        for name in _systems(options):
            system = _make(name, place, options)
            running.callback(system.close)
            print(f"Starting {system.name}", file=sys.stderr, flush=True)
            results.systems[system.name] = system.start(names)
            systems.append(system)
        _say_what_runs(results)
        print(header(list(results.systems)))
        for load in wanted:
            outcomes = measure(systems, load, results.answers, options.rounds)
            results.outcomes += outcomes
            print(row(outcomes), flush=True)
            if options.json is not None:
                results.write(options.json)  # after each load: a run that is cut short is kept


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", help="as for motet serve; default: the demo base")
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=(*SYSTEMS, *MORE_SYSTEMS),
        help="default: all installed; motet-fast is Motet with --fast-math",
    )
    parser.add_argument("--requests", type=int, nargs="+", default=NUM_REQUESTS)
    parser.add_argument("--adapters", type=int, nargs="+", default=NUM_ADAPTERS)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-len", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--stream", action="store_true", help="ask the servers for SSE streams")
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--work-dir", type=Path, default=ROOT / ".cache" / "bench")
    return parser.parse_args()


def _systems(options: argparse.Namespace) -> list[str]:
    if options.systems is not None:
        return list(options.systems)
    if vllm_system.is_installed():
        return list(SYSTEMS)
    print("vLLM is not installed and is left out; make bench-peers installs it", file=sys.stderr)
    return [name for name in SYSTEMS if name != "vllm"]


def _make(name: str, place: Workplace, options: argparse.Namespace) -> System:
    makers: dict[str, Callable[[], System]] = {
        "motet": lambda: MotetSystem(place, options.threads, stream=options.stream),
        "motet-fast": lambda: MotetSystem(
            place, options.threads, stream=options.stream, fast_math=True
        ),
        "peft-nf4": lambda: PeftSystem(place, options.threads, "nf4"),
        "peft-bf16": lambda: PeftSystem(place, options.threads, "bf16"),
        "vllm": lambda: vllm_system.VllmSystem(place, options.threads, stream=options.stream),
    }
    return makers[name]()


def _say_what_runs(results: Results) -> None:
    for key, value in results.machine.items():
        print(f"{key}: {value}")
    for name, said in results.systems.items():
        print(f"{name}: {said}")
    print(
        f"{results.base}, adapters of rank {results.rank} on all projections, prompts of "
        f"{results.answers.prompt_len}, {results.answers.num_tokens} generated.\n"
        f"Tokens per second, median of {results.rounds} alternating rounds:\n"
    )


if __name__ == "__main__":
    main()
