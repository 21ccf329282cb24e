"""Native linears on awkward sizes: any two values of any two sizes meet in some case."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from motet_kernels import Ops, ReferenceOps
from torch import Tensor

from tests.support.kernel_cases import RANKS, GroupCase, assert_close, slots_of
from tests.support.pairwise import Case, pairwise
from tests.support.poison import poisoned_memory

BF16 = torch.bfloat16
SIZES = {
    "num_tokens": (1, 2, 3, 7, 16, 17, 63, 64, 65, 133, 256),
    "k": (64, 576, 1536, 4096, 100),
    "n": (1, 24, 127, 576, 49152),
    "dtype": (torch.float32, BF16),
}
ADAPTERS = {
    "rank": (1, 3, 8, 16, 96),
    "popularity": ("distinct", "identical", "skewed", "all-base", "one-base-in-the-middle"),
    "siblings": (False, True),
}
MOST_PRODUCTS = 10**9


def _affordable(case: Case) -> bool:
    return case["num_tokens"] * case["k"] * case["n"] <= MOST_PRODUCTS


def _name(case: Case) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case.values())


@dataclass(frozen=True)
class Adapted:
    """A case of adapted_linear and what the reference makes of it."""

    case: GroupCase
    x: Tensor
    slots: list[int]
    expected: tuple[Tensor, ...]


@pytest.fixture(scope="module", params=pairwise({**SIZES, **ADAPTERS}, _affordable), ids=_name)
def adapted(request: pytest.FixtureRequest) -> Adapted:
    """Of the module, so that all levels come to a case before the next is made."""
    sizes: Case = request.param
    outs = (24, sizes["n"], 60) if sizes["siblings"] else (sizes["n"],)
    case = GroupCase.make(outs, sizes["k"], sizes["dtype"], ranks=(sizes["rank"],) * len(RANKS))
    slots = slots_of(sizes["popularity"], sizes["num_tokens"])
    case.spoil_unused_slots(slots)
    x = case.inputs(sizes["num_tokens"], sizes["dtype"])
    return Adapted(case, x, slots, case.run(ReferenceOps(), x, slots))


def test_adapted_linear(native: Ops, adapted: Adapted) -> None:
    with poisoned_memory():
        actual = adapted.case.run(native, adapted.x, adapted.slots)
    for y, expected in zip(actual, adapted.expected, strict=True):
        assert y.dtype == expected.dtype
        assert_close(y, expected, usual=adapted.case.in_features**0.5)


@dataclass(frozen=True)
class Dense:
    """A case of dense_linear and what the reference makes of it."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    expected: Tensor


# An output head has all the columns, and these tokens; elsewhere they would only take time.
DENSE = (
    *pairwise({**SIZES, "n": (1, 24, 127, 576), "biased": (False, True)}, _affordable),
    *({"num_tokens": t, "k": 576, "n": 49152, "dtype": BF16, "biased": False} for t in (1, 7, 32)),
)


@pytest.fixture(scope="module", params=DENSE, ids=_name)
def dense(request: pytest.FixtureRequest) -> Dense:
    sizes: Case = request.param
    generator = torch.Generator().manual_seed(sizes["num_tokens"] + sizes["k"] + sizes["n"])

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(sizes["dtype"])

    x, weight = normal(sizes["num_tokens"], sizes["k"]), normal(sizes["n"], sizes["k"])
    bias = normal(sizes["n"]) if sizes["biased"] else None
    return Dense(x, weight, bias, ReferenceOps().dense_linear(x, weight, bias))


def test_dense_linear(native: Ops, dense: Dense) -> None:
    with poisoned_memory():
        actual = native.dense_linear(dense.x, dense.weight, dense.bias)
    assert actual.dtype == dense.expected.dtype
    assert_close(actual, dense.expected, usual=dense.x.shape[1] ** 0.5)
