"""Runs the cases on one emulated architecture and prints an Outcome a line, as JSON.

    python -m tests.emulated.one_architecture ARCHITECTURE TINYGRAD [WORD]

A process of its own for each architecture: Triton keeps what it compiled by device.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

# Read when Triton and tinygrad are imported. The emulator has no buffer loads for RDNA.
os.environ |= {"DEV": "CPU", "AMDGCN_USE_BUFFER_OPS": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
os.environ.pop("TRITON_INTERPRET", None)

import torch
from motet_kernels.gpu import nf4_linear
from motet_kernels.gpu.architectures import ARCHITECTURES, Architecture
from motet_kernels.gpu.kernel_registry import all_specs
from motet_kernels.gpu.tuning import TuningTable
from motet_kernels.gpu.tuning_formula import predicted
from triton.runtime import driver

from tests.emulated.cases import CASES, Close, EmulatedCase, Equal
from tests.emulated.driver import EmulatedDriver
from tests.emulated.emulator import emulator
from tests.support.kernel_cases import TOLERANCES

SPLIT_LEN = 64  # of K and of keys: parts at sizes that an emulator can run
MANY_ROWS = 8


@dataclass(frozen=True)
class Outcome:
    """largest, rmse: errors relative to the largest and the root mean square value."""

    architecture: str
    case: str
    largest: float
    rmse: float
    same_bits: int  # pairs that had to be equal to the bit and were
    launches: dict[str, int]
    seconds: float
    failure: str  # what was wrong; empty: nothing


def main() -> None:
    name, tinygrad, *words = sys.argv[1:]
    architecture = ARCHITECTURES[name]
    emulated = EmulatedDriver(architecture, emulator(tinygrad))
    driver.set_active(emulated)
    table = _with_short_parts(predicted(architecture))
    # launches ask these for the backend, because no CPU tensor says it
    torch.version.hip = "emulated"
    nf4_linear._on_hip = lambda _: True
    nf4_linear.MANY_ROWS = MANY_ROWS
    launched = set()
    for case in CASES:
        if not words or words[0] in case.name:
            outcome = _run(case, table, emulated)
            launched |= set(outcome.launches)
            print(json.dumps(asdict(outcome)), flush=True)
    if not words:
        _print_missing(architecture, launched)


def _run(case: EmulatedCase, table: TuningTable, emulated: EmulatedDriver) -> Outcome:
    emulated.launches.clear()
    emulated.seconds = 0.0
    largest = rmse = 0.0
    same_bits, failures = 0, []
    close: Close = ()
    equal: Equal = ()
    try:
        close, equal = case.run(case.ops(table))
    except RuntimeError as error:  # an instruction that the emulator lacks
        failures.append(str(error))
    for actual, expected in close:
        error = (actual.double() - expected.double()).abs()
        largest = max(largest, float(error.max() / expected.abs().max()))
        rmse = max(rmse, float((error.square().mean() / expected.square().mean()).sqrt()))
    most, most_rmse = TOLERANCES[torch.bfloat16]
    if not (largest <= most and rmse <= most_rmse):  # NaN is not
        failures.append(f"errors {largest:.1e}, {rmse:.1e} over {most}, {most_rmse}")
    for actual, expected in equal:
        same_bits += torch.equal(actual, expected)
        if not torch.equal(actual, expected):
            failures.append("bits differ")
    return Outcome(
        emulated.architecture.name,
        case.name,
        largest,
        rmse,
        same_bits,
        dict(emulated.launches),
        round(emulated.seconds, 1),
        "; ".join(failures),
    )


def _print_missing(architecture: Architecture, launched: set[str]) -> None:
    """A kernel that no case launched is a failure of the cases."""
    listed = {spec.kernel.__name__ for spec in all_specs(architecture)}
    for kernel in sorted(listed - launched):
        missing = Outcome(architecture.name, kernel, 0.0, 0.0, 0, {}, 0.0, "no case launched it")
        print(json.dumps(asdict(missing)), flush=True)


def _with_short_parts(table: TuningTable) -> TuningTable:
    def short(entries: Any) -> Any:
        return tuple(
            replace(entry, config=replace(entry.config, split_len=SPLIT_LEN)) for entry in entries
        )

    return replace(table, lowranks=short(table.lowranks), attentions=short(table.attentions))


if __name__ == "__main__":
    main()
