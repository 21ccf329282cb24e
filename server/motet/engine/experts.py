"""A seam of mixture-of-experts models: their experts, with adapters and without neighbours.

transformers hands each module of experts to a registered function (`ExpertsInterface`). Ours runs
each expert's tokens through the kernels' dense product and that expert's own adapters, and adds a
token's experts in the order in which its router named them: so a token's bits are its own here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from motet_adapters import SiteParts
from motet_kernels import LowRank, Ops, Routing, SlotTable
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from motet.engine.linear import CurrentRouting

EXPERTS_NAME = "motet"
_SITE = "motet_site"


class ExpertsSite:
    """One module of E experts and the adapters on their weights.

    An adapter's parts are named by the parameter: "gate_up_proj.a" [E, R, K] and "gate_up_proj.bt"
    [E, R, N] with the scale folded in, for an expert's weight [N, K]; likewise up_proj, down_proj.
    """

    def __init__(
        self, module: nn.Module, ops: Ops, routing: CurrentRouting, num_slots: int
    ) -> None:
        # In a tuple, lest it count as a part. Any: its class is known by its attributes alone.
        self._module: tuple[Any] = (module,)
        self._ops = ops
        self._routing = routing
        self.tables: Mapping[str, tuple[SlotTable, ...]] = {
            name: tuple(
                SlotTable(num_slots, shape[1], shape[0], weight.device) for _ in range(len(weight))
            )
            for name, weight, shape in _projections(module)
        }
        self._bound: set[int] = set()

    def put(self, slot: int, parts: SiteParts) -> None:
        self.clear(slot)
        for name, tables in self.tables.items():
            if f"{name}.a" not in parts.tensors:
                continue
            a, bt = parts.tensors[f"{name}.a"], parts.tensors[f"{name}.bt"]
            for expert, table in enumerate(tables):
                table.put(slot, LowRank(a[expert], bt[expert]))
            self._bound.add(slot)

    def clear(self, slot: int) -> None:
        if slot in self._bound:
            self._bound.discard(slot)
            for table in (table for tables in self.tables.values() for table in tables):
                table.clear(slot)

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x [T, H], chosen int64 [T, k], weights [T, k] -> [T, H].

        y[t] = sum_i weights[t, i] * expert chosen[t, i] of x[t], over i in order.
        """
        (module,) = self._module
        num_tokens, num_chosen = chosen.shape
        places = chosen.flatten()  # of (token, choice)
        order = places.argsort(stable=True)
        counts = places.bincount(minlength=len(module.down_proj)).tolist()
        parts, slots = [], self._token_slots(num_tokens)
        for expert, rows in enumerate(order.split_with_sizes(counts)):
            if len(rows):
                tokens = rows // num_chosen
                routing = self._routing_of(tokens, slots)
                parts.append(self._expert(expert, x.index_select(0, tokens), routing))
        flat = torch.cat(parts)
        by_place = torch.empty_like(flat).index_copy_(0, order, flat)
        by_place = by_place.view(num_tokens, num_chosen, -1) * weights.unsqueeze(-1)
        total = by_place[:, 0].float()
        for i in range(1, num_chosen):
            total = total + by_place[:, i].float()
        return total.to(x.dtype)

    def _expert(self, expert: int, x: Tensor, routing: Routing | None) -> Tensor:
        (module,) = self._module
        first = "gate_up_proj" if module.has_gate else "up_proj"
        inner = self._product(first, expert, x, routing)
        inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
        y = self._product("down_proj", expert, inner, routing)
        return module.post_expert_norm(y) if module.has_post_expert_norm else y

    def _product(self, name: str, expert: int, x: Tensor, routing: Routing | None) -> Tensor:
        (module,) = self._module
        weight = getattr(module, name)[expert]
        bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
        weight = weight.mT.contiguous() if module.is_transposed else weight
        y = self._ops.dense_linear(x, weight, bias)
        return y if routing is None else self._ops.adapt(x, y, self.tables[name][expert], routing)

    def _token_slots(self, num_tokens: int) -> list[int] | None:
        """The slot of each token; None: no token's slot has an adapter here."""
        segments = self._routing.get().segments
        if self._bound.isdisjoint(segment.slot for segment in segments):
            return None
        return [segment.slot for segment in segments for _ in range(segment.start, segment.stop)]

    def _routing_of(self, tokens: Tensor, slots: list[int] | None) -> Routing | None:
        if slots is None:
            return None
        return Routing.from_slots([slots[token] for token in tokens.tolist()])


def install_experts(
    model: PreTrainedModel, ops: Ops, routing: CurrentRouting, num_slots: int
) -> dict[str, ExpertsSite]:
    """Let our function run every module of experts that transformers can hand to one; by path."""
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS_NAME, _experts_forward)
    sites = {}
    for path, module in model.named_modules():
        if hasattr(module, "_apply_gate") and hasattr(module, "is_transposed"):
            sites[path] = ExpertsSite(module, ops, routing, num_slots)
            setattr(module, _SITE, sites[path])
    if sites:
        model.set_experts_implementation(EXPERTS_NAME)
    return sites


def _experts_forward(module: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    site: ExpertsSite = getattr(module, _SITE)
    return site.forward(x, chosen, weights)


def _projections(module: nn.Module) -> Iterator[tuple[str, Tensor, tuple[int, int]]]:
    """Name, parameter [E, N, K] or [E, K, N], and (N, K)."""
    for name in ("gate_up_proj" if module.has_gate else "up_proj", "down_proj"):
        weight = getattr(module, name)
        rows, columns = weight.shape[1:]
        yield name, weight, (columns, rows) if module.is_transposed else (rows, columns)
