"""Routers' products by the kernels, so that on a GPU a token's experts are its own."""

from __future__ import annotations

import pytest
import torch
from motet.engine.bare_products import hand_over_products, multiplying_modules
from motet_kernels import Ops, ReferenceOps
from torch import Tensor

from tests.support.tiny_models import SERVED, tiny_model

MIXTURES = ("qwen3_moe", "mixtral")


class Noted(ReferenceOps):
    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def dense_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        self.shapes.append((*x.shape, weight.shape[0]))
        return super().dense_linear(x, weight, bias)


@pytest.mark.parametrize("name", SERVED)
def test_routers_are_what_multiplies_by_itself(name: str) -> None:
    model = tiny_model(name)
    found = {type(module).__name__ for module in multiplying_modules(model)}
    assert all(each.endswith("TopKRouter") for each in found)
    assert bool(found) == (name in MIXTURES)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_router_s_product_is_the_ops_and_its_result_the_same(name: str) -> None:
    model = tiny_model(name).float()
    (router, *_) = multiplying_modules(model)
    x = torch.randn(5, router.weight.shape[1])
    expected = router(x)
    ops: Ops = Noted()
    hand_over_products(model, ops)
    with torch.inference_mode():
        logits, *others = router(x)
        again = torch.nn.functional.linear(x, router.weight)
    assert ops.shapes == [(5, x.shape[1], router.weight.shape[0])]  # `again` not among them
    assert torch.allclose(logits, expected[0], atol=1e-5)
    assert torch.allclose(again, expected[0], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(others, expected[1:], strict=True))
