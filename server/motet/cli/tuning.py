"""Making a tuning table for the GPU at hand."""

import os
from datetime import date

import torch
from motet_kernels.gpu.tuning_files import architecture_of, table_path, tuning_of
from motet_kernels.gpu.tuning_formula import predicted
from motet_kernels.gpu.tuning_search import search
from motet_kernels.gpu.tuning_trial import Trials

from motet.cli.terminal import remarks, results, say
from motet.errors import MotetError


def run(*, show: bool) -> None:
    """Writes the table of this machine's first GPU. Raises MotetError where there is none."""
    if not torch.cuda.is_available():
        raise MotetError(
            "There is no GPU to tune for: torch sees none. Run it on the machine that will serve, "
            "with a CUDA build of torch."
        )
    device = torch.device("cuda")
    table = tuning_of(device)
    if show:
        say(results(), table.to_json())
        return
    properties = torch.cuda.get_device_properties(device)
    start = predicted(architecture_of(device), (properties.name,), properties.multi_processor_count)
    with remarks().status(f"Trying block sizes on {properties.name}"):
        origin = f"motet tune on {date.today()}, torch {torch.__version__}"
        found = search(start, origin, Trials(start, device).seconds)
    path = table_path(properties.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(found.to_json(), encoding="utf-8")
    os.replace(written, path)
    say(results(), f"{properties.name}: {path}")
