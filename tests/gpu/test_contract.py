"""The contract of the ops on a CUDA device, in bf16, with the kernels as they are served."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from motet_kernels.gpu.gpu_ops import GpuOps
from torch.nn import functional as F

from tests.emulated.cases import CASES, EmulatedCase
from tests.gpu.conftest import DEVICE
from tests.support.attention_cases import AttentionCase, Heads
from tests.support.device_ops import DeviceOps
from tests.support.kernel_cases import POPULARITIES, GroupCase, assert_close, slots_of

BF16 = torch.bfloat16
HALVES = (torch.bfloat16, torch.float16)

# [N_j], K: those of real layers, and some that are no multiple of a block.
SHAPES = [
    ((576, 192, 192), 576),
    ((1536, 1536), 576),
    ((4096, 1024, 1024), 4096),
    ((4096,), 14336),
    ((60, 127, 24), 100),
    ((24,), 2500),
]


@pytest.fixture(params=[False, True], ids=["promise", "fast_math"])
def fast_math(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def cuda_ops(*, fast_math: bool = False) -> DeviceOps:
    return DeviceOps(GpuOps(fast_math=fast_math), DEVICE)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_of_the_emulated_gpus(case: EmulatedCase) -> None:
    close, equal = case.run(cuda_ops(fast_math=case.fast_math))
    for actual, expected in close:
        assert_close(actual, expected)
    for actual, expected in equal:
        assert torch.equal(actual, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("num_tokens", [1, 3, 16, 17, 64, 300])
@pytest.mark.parametrize(("outs", "k"), SHAPES)
def test_linears(
    outs: Sequence[int], k: int, num_tokens: int, dtype: torch.dtype, fast_math: bool
) -> None:
    case = GroupCase.make(outs, k, dtype)
    slots = slots_of("random", num_tokens)
    x = case.inputs(num_tokens, dtype)
    expected = case.expected(x, slots)
    case.spoil_unused_slots(slots)
    actual = case.run(cuda_ops(fast_math=fast_math), x, slots)
    for y, y_expected in zip(actual, expected, strict=True):
        assert_close(y, y_expected)


@pytest.mark.gpu
@pytest.mark.parametrize("popularity", POPULARITIES)
def test_popularity(popularity: str, fast_math: bool) -> None:
    case = GroupCase.make((576, 192), 576, BF16)
    x, slots = case.inputs(133, BF16), slots_of(popularity, 133)
    actual = case.run(cuda_ops(fast_math=fast_math), x, slots)
    for y, expected in zip(actual, case.expected(x, slots), strict=True):
        assert_close(y, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [Heads(9, 3, 64, 64), Heads(8, 2, 128, 128), Heads(2, 1, 80, 80)])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (100, None), (None, 30.0)])
def test_attention(heads: Heads, window: int | None, softcap: float | None) -> None:
    case = AttentionCase.make([(20, 45), (1, 700), (1, 1), (1, 64)], BF16, heads=heads)
    actual = case.run(cuda_ops(), window=window, softcap=softcap)
    for out, expected in zip(actual, case.expected(window=window, softcap=softcap), strict=True):
        assert_close(out, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 5, 64, 100])
def test_dense_linear(num_tokens: int, fast_math: bool) -> None:
    x, weight, bias = torch.randn(num_tokens, 576), torch.randn(1000, 576), torch.randn(1000)
    expected = F.linear(x.to(BF16).double(), weight.to(BF16).double(), bias.to(BF16).double())
    ops = cuda_ops(fast_math=fast_math)
    assert_close(ops.dense_linear(x.to(BF16), weight.to(BF16), bias.to(BF16)), expected)


def test_wrapper_changes_nothing() -> None:
    """No GPU needed: the same cases on the CPU's interpreter, with and without the wrapper."""
    if torch.cuda.is_available():
        pytest.skip("Triton's interpreter is off where there is a GPU")
    case = GroupCase.make((24, 60), 60, torch.float32)
    x, slots = case.inputs(5, torch.float32), [0, 4, 2, 1, 0]
    plain = GpuOps()
    wrapped = DeviceOps(GpuOps(), torch.device("cpu"))
    for one, other in zip(case.run(plain, x, slots), case.run(wrapped, x, slots), strict=True):
        assert torch.equal(one, other)
    pages = AttentionCase.make([(2, 9), (1, 20)], torch.float32)
    for one, other in zip(pages.run(plain), pages.run(wrapped), strict=True):
        assert torch.equal(one, other)
