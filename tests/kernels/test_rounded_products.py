"""NF4 products whose inputs are rounded to 8 bits: fast_math on a CPU."""

from __future__ import annotations

import pytest
import torch
from motet_kernels import Nf4Weight, Ops, PackedDenseOps, Routing, SlotTable
from motet_kernels.cpu.native_library import FAST_LEVELS
from torch import Tensor

from tests.support.kernel_cases import CPU, random_weight
from tests.support.poison import poisoned_memory
from tests.support.rounded_product import rounded_dense, rounded_product

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


def packed_product(ops: Ops, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert isinstance(ops, PackedDenseOps)
    packed = ops.pack_dense(weight, bias)
    assert packed is not None
    assert (packed.out_features, packed.in_features) == weight.shape
    with poisoned_memory():
        return ops.packed_dense_linear(x, packed)


@pytest.mark.parametrize("k", [4, 60, 64, 100, 576])
@pytest.mark.parametrize("n", [1, 24, 127, 576])
@pytest.mark.parametrize("biased", [False, True])
def test_a_head_is_that_of_rounded_inputs_and_weights(
    fast: Ops, n: int, k: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(n)
    weight = torch.randn(n, k, generator=generator).to(BF16)
    bias = torch.randn(n, generator=generator).to(BF16) if biased else None
    whole = inputs(133, k)
    expected = rounded_dense(whole, weight) + (bias if bias is not None else 0)
    alone = torch.cat([packed_product(fast, row[None], weight, bias) for row in whole])
    for num_tokens in NUM_TOKENS:
        y = packed_product(fast, whole[:num_tokens], weight, bias)
        assert torch.equal(y, alone[:num_tokens])
        assert_only_rounded(y.double(), expected[:num_tokens])


def test_a_head_of_another_kind_is_left_to_the_plain_product(fast: Ops) -> None:
    assert isinstance(fast, PackedDenseOps)
    assert fast.pack_dense(torch.ones(8, 64), None) is None  # float32
    assert fast.pack_dense(torch.ones(8, 63, dtype=BF16), None) is None
    packed = fast.pack_dense(torch.ones(8, 64, dtype=BF16), None)
    assert packed is not None
    for wrong in (torch.ones(1, 64), torch.ones(1, 60, dtype=BF16)):
        with pytest.raises(ValueError, match="x must be bfloat16"):
            fast.packed_dense_linear(wrong, packed)


def test_a_column_that_is_not_finite_spoils_no_other(fast: Ops) -> None:
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)).to(BF16)
    x = inputs(3, 64)
    clean = packed_product(fast, x, weight, None)
    weight[7, 3], weight[9, 3], weight[11] = float("nan"), float("inf"), 0
    y = packed_product(fast, x, weight, None)
    assert y[:, [7, 9]].isnan().all()
    assert (y[:, 11] == 0).all()
    others = [column for column in range(40) if column not in (7, 9, 11)]
    assert torch.equal(y[:, others], clean[:, others])
