"""Adapters on the routers of mixtures: which experts a token goes to is then its adapter's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from motet_adapters import SiteParts
from motet_kernels import LowRank, Ops, Routing, SlotTable
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from motet.engine.linear import CurrentRouting

WEIGHT = "weight"


class RouterSite:
    """A module that multiplies its tokens by one weight [E, D], and does with the products what it
    will: its own forward runs, with each token's low-rank part added to its product.

    An adapter's parts are those of experts, of one: "weight.a" [1, R, D] and "weight.bt" [1, R, E]
    with the scale folded in.
    """

    def __init__(
        self, module: nn.Module, ops: Ops, routing: CurrentRouting, num_slots: int
    ) -> None:
        weight = module.get_parameter(WEIGHT)
        num_experts, hidden_size = weight.shape
        self.table = SlotTable(num_slots, hidden_size, num_experts, weight.device)
        self._dtype = weight.dtype
        self._ops = ops
        self._routing = routing
        self._plain = module.forward
        module.forward = self._forward

    def put(self, slot: int, parts: SiteParts) -> None:
        a, bt = parts.tensors[f"{WEIGHT}.a"], parts.tensors[f"{WEIGHT}.bt"]
        self.table.put(slot, LowRank(a[0], bt[0]))

    def clear(self, slot: int) -> None:
        self.table.clear(slot)

    def _forward(self, *arguments: object, **named: object) -> object:
        routing = self._routing.get()
        if all(self.table[segment.slot] is None for segment in routing.segments):
            return self._plain(*arguments, **named)
        with _AddedToProduct(self, routing) as added:
            output = self._plain(*arguments, **named)
        if added.num_products != 1:
            raise RuntimeError(f"the router made {added.num_products} products, not one")
        return output

    def added(self, x: Tensor, routing: Routing) -> Tensor:
        """B A x of each token by its own adapter. x [T, D] -> [T, E] in the weight's dtype."""
        nothing = torch.zeros(len(x), self.table.out_features, dtype=self._dtype, device=x.device)
        return self._ops.adapt(x.to(self._dtype), nothing, self.table, routing)


class _AddedToProduct(TorchFunctionMode):
    """While open, what a product by a matrix of the router's shape comes to has its adapters'."""

    def __init__(self, site: RouterSite, routing: Routing) -> None:
        super().__init__()
        self._site = site
        self._routing = routing
        self.num_products = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        table = self._site.table
        shape = (table.out_features, table.in_features)
        if func is not functional.linear or tuple(args[1].shape) != shape:
            return result
        self.num_products += 1
        x = args[0].reshape(-1, table.in_features)
        return result + self._site.added(x, self._routing).view_as(result).to(result.dtype)
