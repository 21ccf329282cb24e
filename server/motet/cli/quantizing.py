"""Quantising a base ahead of time."""

import time
from pathlib import Path

from motet.cli.progress_bar import progress_bar
from motet.cli.terminal import results, say
from motet.engine.base import open_base
from motet.settings import Settings

_DEMO = "demo"


def run(base: str, out: Path, settings: Settings) -> None:
    """Writes the quantised form of `base` under `out`, or finds it there."""
    started = time.monotonic()
    with progress_bar("Quantising") as progress:
        made = open_base(
            None if base == _DEMO else base,
            cache_dir=out,
            double_quant=settings.double_quant,
            progress=progress,
        )
    num_bytes = sum(file.stat().st_size for file in made.directory.rglob("*") if file.is_file())
    say(
        results(),
        f"{made.name}: {len(made.modules())} linears in NF4, {num_bytes / 2**20:.0f} MiB, "
        f"ready in {time.monotonic() - started:.1f} s.",
    )
    flag = "" if base == _DEMO else f" --base {base}"
    say(results(), f"Serve it with: motet serve --data-dir {out}{flag}")
