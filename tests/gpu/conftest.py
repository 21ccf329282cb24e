"""Everything here needs a CUDA device, except what says that it does not."""

from __future__ import annotations

import pytest
import torch

DEVICE = torch.device("cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch sees none: make gpu-check")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
