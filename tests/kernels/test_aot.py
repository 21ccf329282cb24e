"""Compiling the GPU kernels without a GPU: the gates find what they are for, and the kernels pass.

Programs of their own, because kernels in this process are the interpreter's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import motet_kernels.gpu
import pytest
from motet_kernels.gpu.architectures import ARCHITECTURES
from motet_kernels.gpu.kernel_registry import all_specs
from motet_kernels.gpu.kernel_specs import KernelSpec

ROOT = Path(__file__).parents[2]

# What each planted kernel must be found to do; "sound" and "of another type" pass.
PLANTED = {
    "sm_90 narrow: weights are loaded 1 bytes at a time, not 16",
    "sm_90 without tensor cores: a tile kernel without a tensor-core instruction",
    "sm_90 weights not found: no load through 'y' was found, so its width is unknown",
    "sm_90 greedy: 258048 bytes of shared memory, over the 232448 of sm_90",
    "sm_90 wasteful: 784.0 instructions per weight, over 9",
    "sm_90 uncounted: a loop of byte permutes whose weights the spec does not count",
    "sm_90 spills: N spills of registers",
    "sm_90 product (*bf16,*fp32,*u8,i32) sums in different ways: ; HMMA.16816.F32.BF16",
    "gfx942 narrow: weights are loaded 1 bytes at a time, not 16",
    "gfx942 weights not found: no load through 'y' was found, so its width is unknown",
    "gfx942 spills on AMD: N spills of registers",
}


def aot(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: text for key, text in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.aot", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_every_gate_finds_the_kernel_planted_for_it(tmp_path: Path) -> None:
    page, figures = tmp_path / "kernels.md", tmp_path / "figures.json"
    page.write_text("<!-- aot -->\n<!-- end of aot -->\n")
    run = aot(
        *("--areas", "tests.support.planted_kernels"),
        *("--architectures", "sm_90", "gfx942"),
        *("--page", str(page), "--json", str(figures)),
    )
    assert run.returncode == 1, run.stderr
    lines = re.sub(r": \d+ spills", ": N spills", run.stderr).splitlines()
    found = {line for line in lines if line.startswith(("sm_", "gfx"))}
    assert found == PLANTED
    assert page.read_text() == "<!-- aot -->\n<!-- end of aot -->\n"  # no table of what failed
    sound = json.loads(figures.read_text())[0]
    assert sound["kernel"] == "sound"
    assert 1 < sound["instructions_per_weight"] < 9


def test_empty_choice_of_kernels_is_refused() -> None:
    run = aot("--areas", "tests.support.planted_kernels", "--architectures", "sm_90",
              "--only", "nothing has this name")  # fmt: skip
    assert run.returncode == 1
    assert "no kernel is chosen" in run.stderr


@pytest.mark.slow
def test_one_entry_of_every_kernel_passes_the_gates() -> None:
    run = aot("--sample", "--architectures", "sm_80", "sm_90", "gfx942")
    assert run.returncode == 0, run.stderr


def test_every_kernel_is_listed() -> None:
    listed = {spec.kernel.__name__ for name in ARCHITECTURES for spec in specs_of(name)}
    modules = [
        import_module(f"motet_kernels.gpu.{found.name}")
        for found in iter_modules(motet_kernels.gpu.__path__)
    ]
    kernels = {
        name
        for module in modules
        for name, value in vars(module).items()
        if name.endswith("_kernel") and hasattr(value, "arg_names")
    }
    assert kernels
    assert kernels == listed


def specs_of(architecture: str) -> list[KernelSpec]:
    return all_specs(ARCHITECTURES[architecture])


def test_spec_that_does_not_fit_its_kernel_is_refused() -> None:
    sound = specs_of("sm_90")[0]
    fields = {name: getattr(sound, name) for name in sound.__dataclass_fields__}
    with pytest.raises(ValueError, match="arguments do not match"):
        KernelSpec(**fields | {"arguments": {}})
    with pytest.raises(ValueError, match="no such arguments: \\['other'\\]"):
        KernelSpec(**fields | {"aligned": frozenset({"other"})})
    with pytest.raises(ValueError, match="no such arguments"):
        KernelSpec(**fields | {"weight": "other"})
