"""What `motet tune` asks of the table it has found, of ops that keep the promise and of others."""

from __future__ import annotations

import pytest
import torch
from motet_kernels.gpu.gpu_ops import GpuOps
from motet_kernels.gpu.row_bits import keeps_row_bits

from tests.support.ordered_dot import order_dots

CPU = torch.device("cpu")


@pytest.mark.parametrize("fast_math", [False, True])
def test_an_order_that_the_rows_decide_is_found(
    fast_math: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_dots(monkeypatch)
    kept = keeps_row_bits(
        GpuOps(fast_math=fast_math), CPU, torch.float32, in_features=128, outputs=24,
        counts=(1, 17),
    )  # fmt: skip
    assert kept is not fast_math
