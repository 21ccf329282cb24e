"""NF4 products whose inputs are rounded to 8 bits: fast_math on a CPU."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import Nf4Weight, Ops, Routing, SlotTable
from motet_kernels.cpu.native_library import FAST_LEVELS
from torch import Tensor

from tests.support.kernel_cases import CPU, random_weight
from tests.support.rounded_product import rounded_product

BF16 = torch.bfloat16
NUM_TOKENS = (1, 2, 3, 7, 8, 9, 16, 17, 63, 64, 65, 133)


@pytest.fixture(params=FAST_LEVELS)
def fast(request: pytest.FixtureRequest, implementations: dict[str, Ops]) -> Ops:
    if request.param not in implementations:
        pytest.skip(f"this machine cannot build or run {request.param}")
    return implementations[request.param]


def product(ops: Ops, x: Tensor, weight: Nf4Weight) -> Tensor:
    table = SlotTable(2, weight.shape[1], weight.shape[0], CPU)
    group = ops.pack([weight], [None], BF16, CPU)
    (y,) = ops.adapted_linear(x, group, [table], Routing.from_slots([0] * len(x)))
    return y.double()


def inputs(num_tokens: int, k: int) -> Tensor:
    """With a few that are far larger than their neighbours, as a model's are."""
    generator = torch.Generator().manual_seed(num_tokens)
    x = torch.randn(num_tokens, k, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.01] *= 50
    return x.to(BF16)


def assert_only_rounded(y: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding of the result to bf16, and of float32 sums on the way."""
    error = (y - expected).abs()
    assert (error <= expected.abs() * 2**-8 + expected.abs().max() * 1e-6).all()


@pytest.mark.parametrize("k", [4, 60, 64, 100, 576, 1536, 4096])
@pytest.mark.parametrize("n", [1, 24, 127])
def test_products_are_those_of_rounded_inputs(fast: Ops, n: int, k: int) -> None:
    weight = random_weight(n, k, torch.Generator().manual_seed(k))
    for num_tokens in NUM_TOKENS:
        x = inputs(num_tokens, k)
        assert_only_rounded(product(fast, x, weight), rounded_product(x, weight))


@pytest.mark.parametrize("k", [64, 576, 1536])
def test_rounding_costs_less_than_one_percent(fast: Ops, k: int) -> None:
    """Of the root mean square; the exact product in bf16 has 0.2 %."""
    weight = Nf4Weight.quantize(torch.randn(96, k, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(50, k, generator=torch.Generator().manual_seed(1)).to(BF16)
    exact = x.double() @ weight.dequantize(torch.float32).double().T
    error = (product(fast, x, weight) - exact).square().mean().sqrt()
    assert 0.003 < error / exact.square().mean().sqrt() < 0.01


def test_what_cannot_be_rounded_stays_in_its_row(fast: Ops) -> None:
    weight = random_weight(24, 128, torch.Generator().manual_seed(0))
    x = inputs(9, 128)
    clean = product(fast, x, weight)
    for bad in (float("inf"), -float("inf"), float("nan")):
        spoiled = x.clone()
        spoiled[4, 100] = bad
        y = product(fast, spoiled, weight)
        assert y[4].isnan().all()
        assert torch.equal(y[:4], clean[:4])
        assert torch.equal(y[5:], clean[5:])


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-20, 1e20])
def test_groups_of_any_size(fast: Ops, size: float) -> None:
    """A group too small to be rounded counts as zero; beside a large one that is what it is."""
    weight = random_weight(24, 128, torch.Generator().manual_seed(0))
    x = inputs(3, 128).float()
    x[:, 64:] *= size
    expected = rounded_product(x.to(BF16), weight)
    assert_only_rounded(product(fast, x.to(BF16), weight), expected)
