"""Row independence on a CUDA device, bit for bit: what no test without one can show."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from motet_kernels import Routing
from motet_kernels.gpu.dense_product import ROW_MULTIPLE
from motet_kernels.gpu.gpu_ops import GpuOps
from torch import Tensor

from tests.gpu.conftest import DEVICE
from tests.support.attention_cases import AttentionCase, Heads
from tests.support.device_ops import DeviceOps
from tests.support.kernel_cases import GroupCase
from tests.support.lowrank_cases import LinearCase, table_of, varied_adapters

BF16 = torch.bfloat16

# Numbers of rows around every size at which another block, tile or kernel may be chosen.
COUNTS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 129, 256, 300)
SHAPES = [((576, 192, 192), 576), ((4096, 1024, 1024), 4096), ((4096,), 14336), ((24,), 100)]

pytestmark = pytest.mark.gpu


def cuda_ops() -> DeviceOps:
    return DeviceOps(GpuOps(), DEVICE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(("outs", "k"), SHAPES)
def test_row_has_the_same_bits_in_every_batch(
    outs: Sequence[int], k: int, dtype: torch.dtype
) -> None:
    case, ops = GroupCase.make(outs, k, dtype), cuda_ops()
    most = max(COUNTS)
    x = case.inputs(most, dtype)
    slots = [t % 7 for t in range(most)]
    group = ops.pack(case.weights, case.biases, dtype, torch.device("cpu"))

    def linear(count: int) -> tuple[Tensor, ...]:
        return ops.adapted_linear(x[:count], group, case.tables, Routing.from_slots(slots[:count]))

    together = linear(most)
    for count in COUNTS:
        for y, y_together in zip(linear(count), together, strict=True):
            assert torch.equal(y, y_together[:count]), f"{count} rows"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_adapters_of_every_kind_have_the_same_bits_alone(dtype: torch.dtype) -> None:
    adapters = varied_adapters(576, 192, dtype)
    slots = list(range(len(adapters) + 1)) * 3
    case, ops = LinearCase.make([table_of(adapters, 576, 192)], slots, dtype), cuda_ops()
    (y,), adapted = case.linear(ops), case.adapt(ops)
    for t in range(len(slots)):
        alone = case.rows([t])
        assert torch.equal(alone.linear(ops)[0], y[t : t + 1])
        assert torch.equal(alone.adapt(ops), adapted[t : t + 1])


@pytest.mark.parametrize("heads", [Heads(9, 3, 64, 64), Heads(32, 8, 128, 128)])
@pytest.mark.parametrize("window", [None, 300])
def test_attention_has_the_same_bits_alone(heads: Heads, window: int | None) -> None:
    lens = [(20, 45), (1, 3000), (1, 1), (1, 64), (40, 600), (1, 256), (1, 257)]
    case, ops = AttentionCase.make(lens, BF16, heads=heads), cuda_ops()
    together = case.run(ops, window=window)
    for index, out in enumerate(together):
        assert torch.equal(case.only(index).run(ops, window=window)[0], out)
    backwards = list(reversed(range(len(lens))))
    for index, out in zip(
        backwards, case.with_rows(backwards).run(ops, window=window), strict=True
    ):
        assert torch.equal(together[index], out)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_dense_linear_has_the_same_bits_for_every_number_of_rows(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 576, generator=generator).to(dtype)
    weight = torch.randn(4096, 576, generator=generator).to(dtype)
    ops = cuda_ops()
    together = ops.dense_linear(x, weight, None)
    for count in COUNTS:
        assert torch.equal(ops.dense_linear(x[:count], weight, None), together[:count])


@pytest.mark.parametrize("size", [32, 64, 128, 576, 4096, 8192])
def test_torchs_sums_over_features_have_the_same_bits_from_the_row_multiple_on(size: int) -> None:
    """What norms do between our kernels. If this fails, ROW_MULTIPLE has to be larger."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2048, size, generator=generator).to(DEVICE)
    x[:, size // 2 :] = -x[:, : size // 2].flip(1)  # what is left is the rounding, by its order
    together = x.mean(-1, keepdim=True)
    squares = x.pow(2).mean(-1, keepdim=True)
    for count in range(ROW_MULTIPLE, 2048, ROW_MULTIPLE):
        assert torch.equal(x[:count].mean(-1, keepdim=True), together[:count])
        assert torch.equal(x[:count].pow(2).mean(-1, keepdim=True), squares[:count])
