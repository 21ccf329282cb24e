"""Products that a model's module does by itself, with a weight that is no `nn.Linear`'s.

A mixture's router is one: it calls torch's `linear` with a parameter of its own. On a GPU the
matrix library chooses its kernel by the number of rows, whatever they are padded to, so a token's
experts could depend on its neighbours. Within such a module the call goes to the kernels' dense
product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from motet_kernels import Ops
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from motet.engine.linear import DenseLinear


class _DenseProducts(TorchFunctionMode):
    """`functional.linear` by the ops; all else as it is."""

    def __init__(self, ops: Ops) -> None:
        super().__init__()
        self._ops = ops

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is functional.linear:
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """input [..., K], weight [N, K] -> [..., N]; the names are torch's."""
        y = self._ops.dense_linear(input.reshape(-1, input.shape[-1]), weight, bias)
        return y.view(*input.shape[:-1], -1)


def hand_over_products(model: nn.Module, ops: Ops) -> None:
    """Let `ops` do the products of every module that does its own."""
    for module in multiplying_modules(model):
        module.forward = _handed_over(module.forward, ops)


def multiplying_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Modules with a matrix of their own, that are no linear and no embedding."""
    for module in model.modules():
        weight = module._parameters.get("weight")
        known = isinstance(module, (nn.Linear, nn.Embedding, DenseLinear))
        if weight is not None and weight.dim() == 2 and not known:
            yield module


def _handed_over(forward: Callable[..., Any], ops: Ops) -> Callable[..., Any]:
    def handed_over(*arguments: Any, **others: Any) -> Any:
        with _DenseProducts(ops):
            return forward(*arguments, **others)

    return handed_over
