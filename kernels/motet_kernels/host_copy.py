"""Small tables from host memory to a device, without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def copied_to(device: torch.device, table: Tensor) -> Tensor:
    """`table` (on the host) on `device`; on CUDA the copy is queued behind the current stream's
    work, and torch keeps the page-locked original until it is done."""
    if device.type != "cuda":
        return table.to(device)
    return table.pin_memory().to(device, non_blocking=True)
