"""Compile the native kernels now, not at the first start: python -m motet_kernels.cpu.build"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from motet_kernels.cpu.native_build import (
    BuildFailed,
    cached_library,
    make_prebuilt,
    prebuilt_library,
)


def main() -> int:
    """Exit code 0 with the library's path, 1 where it cannot be made, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        prog="python -m motet_kernels.cpu.build",
        description="Compile the native CPU kernels now, not at the first start.",
    )
    parser.add_argument(
        "--prebuilt",
        action="store_true",
        help="put them into the package itself, to be shipped to machines without a compiler",
    )
    prebuilt = parser.parse_args().prebuilt
    started = time.time()
    try:
        path = make_prebuilt() if prebuilt else prebuilt_library() or cached_library()
    except BuildFailed as failure:
        _say(f"The native CPU kernels could not be built: {failure}.")
        _say("Without them torch serves on a CPU: the same answers, slower.")
        return 1
    except OSError as error:
        _say(f"The native CPU kernels could not be written: {error}.")
        return 1
    _say(f"The native CPU kernels {_when(path, started)}: {path}")
    return 0


def _when(path: Path, started: float) -> str:
    if path.stat().st_mtime < started:
        return "are there already"
    return f"were compiled in {time.time() - started:.0f} s"


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")


if __name__ == "__main__":
    sys.exit(main())
