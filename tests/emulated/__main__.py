"""Runs the compiled AMD kernels on tinygrad's emulator and writes down how near they come.

    python -m tests.emulated TINYGRAD [--architectures gfx942 gfx1100] [--only WORD]
                             [--page docs/kernels.md]

TINYGRAD: a checkout of github.com/tinygrad/tinygrad (MIT); it needs clang. Exit code 1: a result is
further from float64 than bf16 may be, a row's bits depend on its neighbours, or a kernel was not
launched by any case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import triton

from benchmarks.report import replaced

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = ("gfx942", "gfx1100")


def main() -> int:
    options = _options()
    if not (options.tinygrad / "test" / "mockgpu" / "amd" / "emu.py").is_file():
        sys.exit(
            f"{options.tinygrad} is no checkout of tinygrad: test/mockgpu/amd/emu.py is missing"
        )
    running = [_start(name, options) for name in options.architectures]
    outcomes = [outcome for process in running for outcome in _outcomes(process)]
    text = _page_text(outcomes, options.tinygrad)
    print(text)
    failures = [each for each in outcomes if each["failure"]]
    for each in failures:
        print(f"{each['architecture']} {each['case']}: {each['failure']}", file=sys.stderr)
    failed = bool(failures) or any(process.returncode for process in running)
    if options.page:  # failures are part of what is known
        page = options.page.read_text(encoding="utf-8")
        options.page.write_text(replaced(page, "emulate", text), encoding="utf-8")
    return int(failed)


def _start(architecture: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    words = [options.only] if options.only else []
    return subprocess.Popen(
        [sys.executable, "-m", "tests.emulated.one_architecture", architecture,
         str(options.tinygrad.resolve()), *words],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"},
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def _outcomes(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, _ = process.communicate()
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def _page_text(outcomes: Sequence[dict[str, Any]], tinygrad: Path) -> str:
    head = (
        f"{date.today()}, Motet at {_commit(ROOT)}, Triton {triton.__version__}, tinygrad at "
        f"{_commit(tinygrad)}. Errors are relative: the largest to the largest value, and root "
        "mean square to root mean square. Same bits: results that came out alike in a batch and "
        "alone, or that were only to be moved."
    )
    rows = [
        "| GPU | case | largest error | rms error | same bits | launches | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in outcomes:
        launches = ", ".join(f"{n} {name}" for name, n in sorted(each["launches"].items()))
        cells = (each["architecture"], each["case"], f"{each['largest']:.1e}",
                 f"{each['rmse']:.1e}", str(each["same_bits"]), launches,
                 each["failure"] or "right")  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return head + "\n\n" + "\n".join(rows)


def _commit(directory: Path) -> str:
    """The commit of a checkout, with a + where files differ from it."""

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True
        )
        return run.stdout.strip() if run.returncode == 0 else "?"

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulated", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("tinygrad", type=Path, help="a checkout of tinygrad")
    parser.add_argument(
        "--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES)
    )
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--page", type=Path, help="write the table into this page, at its markers")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
