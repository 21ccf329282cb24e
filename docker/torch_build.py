"""Refuses an installed torch that is not the build an image is for.

usage: torch_build.py cpu|cuda|any
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

ADVICE = {
    "cpu": "It would bring gigabytes of CUDA along. Pass --build-arg TORCH_INDEX=ADDRESS with the "
    "index of CPU builds that PyTorch's installation page names",
    "cuda": "Pass --build-arg TORCH_INDEX=ADDRESS with an index of CUDA builds",
}


def complaint(wanted: str, version: str, cuda: str | None) -> str | None:
    """Why a torch built for `cuda` (None: for none) is not `wanted`, and what to do about it."""
    if wanted not in {*ADVICE, "any"}:
        return f"TORCH_BUILD is {wanted!r}; it may be cpu, cuda or any."
    found = "cpu" if cuda is None else "cuda"
    if wanted in ("any", found):
        return None
    return (
        f"pip chose torch {version}, a {found} build; this image is for a {wanted} build. "
        f"{ADVICE[wanted]}, or --build-arg TORCH_BUILD=any to take this one."
    )


def main() -> None:
    # Read, not imported: nothing that torch depends on is installed yet.
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("torch is not installed.")
    facts = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    sys.stdout.write(f"torch {facts['__version__']}, CUDA {facts['cuda']}\n")
    sys.exit(complaint(sys.argv[1], facts["__version__"], facts["cuda"]))


if __name__ == "__main__":
    main()
