"""Adapters on whole modules that stay in place: norms, and what a decoder layer returns."""

from __future__ import annotations

from motet_adapters import SiteParts
from motet_kernels import NormTable, Ops, SlotTable
from torch import Tensor, nn
from torch.func import functional_call

from motet.engine.linear import CurrentRouting
from motet.engine.lowrank_parts import lowrank_of


class NormSite:
    """A norm whose rows may each have a weight of their own.

    The module's own forward computes them, so whatever it does with its weight stays so. Where the
    norm is part of a layer that runs in one call, that call reads the table itself.
    """

    def __init__(self, module: nn.Module, table: NormTable, routing: CurrentRouting) -> None:
        self._table = table
        self._routing = routing
        self._is_inside = False
        module.register_forward_hook(self._hook)

    def put(self, slot: int, parts: SiteParts) -> None:
        self._table.put(slot, parts.tensors["weight"])

    def clear(self, slot: int) -> None:
        self._table.clear(slot)

    def _hook(self, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._is_inside or self._table.is_empty:
            return output
        self._is_inside = True
        try:
            for slot, start, stop in self._routing.get().segments:
                weight = self._table[slot]
                if weight is not None:
                    rows = arguments[0][:, start:stop]
                    own = {"weight": weight.to(next(module.parameters()).dtype)}
                    output[:, start:stop] = functional_call(module, own, (rows,))
        finally:
            self._is_inside = False
        return output


class LayerSite:
    """Adapters on a decoder layer's output: y = gain * (y + B activation(A y + c)) + bias."""

    def __init__(
        self, module: nn.Module, table: SlotTable, ops: Ops, routing: CurrentRouting
    ) -> None:
        self._table = table
        self._ops = ops
        self._routing = routing
        module.register_forward_hook(self._hook)

    def put(self, slot: int, parts: SiteParts) -> None:
        self._table.put(slot, lowrank_of(parts))

    def clear(self, slot: int) -> None:
        self._table.clear(slot)

    def _hook(self, _module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        routing = self._routing.get()
        if all(self._table[segment.slot] is None for segment in routing.segments):
            return output
        return self._ops.adapt(output[0], output[0], self._table, routing)[None]


class LinearSite:
    """A linear's table of adapters."""

    def __init__(self, table: SlotTable) -> None:
        self._table = table

    def put(self, slot: int, parts: SiteParts) -> None:
        self._table.put(slot, lowrank_of(parts))

    def clear(self, slot: int) -> None:
        self._table.clear(slot)
