"""These run the GPU's kernels on CPU tensors, which takes Triton's interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    skip = pytest.mark.skip(reason="the interpreter is off beside a GPU: set TRITON_INTERPRET=1")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)
