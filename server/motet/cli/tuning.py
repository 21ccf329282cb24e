"""Making a tuning table for the GPU at hand."""

import os
from datetime import date

import torch
from motet_kernels.gpu.gpu_ops import GpuOps
from motet_kernels.gpu.row_bits import keeps_row_bits
from motet_kernels.gpu.tuning import TuningTable
from motet_kernels.gpu.tuning_files import architecture_of, table_path, tuning_of
from motet_kernels.gpu.tuning_formula import predicted
from motet_kernels.gpu.tuning_search import OUTPUTS, search
from motet_kernels.gpu.tuning_trial import Trials

from motet.cli.terminal import remarks, results, say
from motet.errors import MotetError

IN_FEATURES = 4096
"""Of the linears whose rows are compared."""


def run(*, show: bool) -> None:
    """Writes the table of this machine's first GPU. Raises MotetError where there is none, or
    where a row's bits would depend on the number of rows with the table that was found."""
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
        _require_row_bits(found, device)
    path = table_path(properties.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(found.to_json(), encoding="utf-8")
    os.replace(written, path)
    say(results(), f"{properties.name}: {path}")


def _require_row_bits(table: TuningTable, device: torch.device) -> None:
    ops, dtype = GpuOps(tuning=table), torch.bfloat16
    for outputs in OUTPUTS:
        if not keeps_row_bits(ops, device, dtype, in_features=IN_FEATURES, outputs=outputs):
            raise MotetError(
                "The fastest block sizes give a row other bits with other numbers of rows "
                f"({outputs} outputs), so the table was not kept and the one in force stays. "
                "Please report it with the GPU's name: the kernels promise that this cannot be."
            )
