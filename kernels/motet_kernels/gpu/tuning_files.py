"""Where tuning tables lie: beside this file, and in the kernel cache of this machine."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import torch

from motet_kernels.gpu.architectures import ARCHITECTURES, KIB, Architecture
from motet_kernels.gpu.tuning import TuningTable
from motet_kernels.gpu.tuning_formula import predicted

_log = logging.getLogger(__name__)

PACKAGED = Path(__file__).parent / "tuning_tables"

# Triton's interpreter runs on no GPU; any table is right there.
INTERPRETED = "sm_80"


def tuning_of(device: torch.device) -> TuningTable:
    """The table for a device that kernels are to run on; for "cpu", the interpreter's."""
    if device.type != "cuda":
        return predicted(ARCHITECTURES[INTERPRETED])
    properties = torch.cuda.get_device_properties(device)
    return tuning_for(properties.name, architecture_of(device), properties.multi_processor_count)


def tuning_for(gpu: str, architecture: Architecture, multiprocessors: int) -> TuningTable:
    """A table made on this machine, the package's, or the formula's, for a GPU by its name.

    A table of this machine that cannot be used is left out with a warning in the log.
    """
    made_here = table_path(gpu)
    if made_here.is_file():
        try:
            return _read(made_here, gpu, architecture)
        except (OSError, ValueError) as error:
            _log.warning("the tuning table %s is not used: %s", made_here, error)
    for path in sorted(PACKAGED.glob("*.json")):
        table = TuningTable.parse(path.read_text())
        if gpu in table.gpus:
            return table
    return predicted(architecture, (gpu,), multiprocessors)


def packaged_tables() -> list[TuningTable]:
    """Every table that comes with the package."""
    return [TuningTable.parse(path.read_text()) for path in sorted(PACKAGED.glob("*.json"))]


def table_path(gpu: str) -> Path:
    """Where the table of a GPU is kept on this machine: MOTET_KERNEL_CACHE or the user's cache."""
    chosen = os.environ.get("MOTET_KERNEL_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(chosen) if chosen else Path(user_cache) / "motet" / "kernels"
    return directory / "tuning" / f"{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"


def architecture_of(device: torch.device) -> Architecture:
    """The architecture of a CUDA or ROCm device; one not listed gets the least of its kind."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        name, backend = properties.gcnArchName.split(":")[0], "hip"
        unlisted = Architecture(name, backend, properties.warp_size, 64 * KIB)
    else:
        name, backend = f"sm_{properties.major}{properties.minor}", "cuda"
        unlisted = Architecture(name, backend, 32, 99 * KIB, wide_dot_rows=64)
    return ARCHITECTURES.get(name, unlisted)


def _read(path: Path, gpu: str, architecture: Architecture) -> TuningTable:
    table = TuningTable.parse(path.read_text())
    if gpu not in table.gpus or table.architecture != architecture.name:
        raise ValueError(f"it is for {', '.join(table.gpus)} ({table.architecture})")
    return table
