"""Tests that run the GPU's kernels on CPU tensors, elsewhere than in tests/kernels/gpu."""

import os

import pytest

interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="the interpreter is off beside a GPU: set TRITON_INTERPRET=1",
)
