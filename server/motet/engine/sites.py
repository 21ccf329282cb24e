"""Every place of a model that adapters may change, under its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from motet_adapters import SiteParts
from motet_adapters.image import Views
from motet_kernels import NormTable, Ops, Routing, SlotTable
from transformers import PreTrainedModel

from motet.engine.base.model_parts import ModelParts, routers
from motet.engine.embedding_site import EmbeddingSite
from motet.engine.experts import install_experts
from motet.engine.head_site import AdaptedHead
from motet.engine.linear import CurrentRouting
from motet.engine.module_sites import LayerSite, LinearSite, NormSite
from motet.engine.routers import RouterSite


class Site(Protocol):
    """One place. The engine thread owns it; tensors are views that stay valid until cleared."""

    def put(self, slot: int, parts: SiteParts) -> None:
        """Let `slot` have these parts here, replacing what it had."""

    def clear(self, slot: int) -> None:
        """Let `slot` have the base's own again."""


class Sites:
    """All of a model's. The tables are also what layers that run in one call read."""

    def __init__(
        self,
        model: PreTrainedModel,
        linears: Mapping[str, SlotTable],
        ops: Ops,
        routing: CurrentRouting,
        *,
        num_slots: int,
        device: torch.device,
    ) -> None:
        """linears: the tables of the linears that have been replaced, by path."""
        parts = ModelParts.of(model)
        self.norm_tables = {
            path: NormTable(num_slots, size, device) for path, size in parts.norms.items()
        }
        self.layer_tables = {
            path: SlotTable(num_slots, parts.hidden_size, parts.hidden_size, device)
            for path in parts.layers
        }
        head = AdaptedHead(model.get_submodule(parts.head.path), ops, routing, num_slots)
        model.set_submodule(parts.head.path, head)
        embedding = EmbeddingSite(model.get_submodule(parts.embedding.path), routing)
        experts = install_experts(model, ops, routing, num_slots)
        self.wait_for_the_device = bool(experts)  # to know which tokens go to which expert
        self._linears = frozenset(linears)
        self._beyond: set[int] = set()
        self._sites: dict[str, Site] = {
            **{path: LinearSite(table) for path, table in linears.items()},
            **{
                path: NormSite(model.get_submodule(path), table, routing)
                for path, table in self.norm_tables.items()
            },
            **{
                path: LayerSite(model.get_submodule(path), table, ops, routing)
                for path, table in self.layer_tables.items()
            },
            **experts,
            **{
                path: RouterSite(model.get_submodule(path), ops, routing, num_slots)
                for path in routers(model)
            },
            parts.embedding.path: embedding,
            parts.head.path: head,
        }

    def bind(self, slot: int, views: Views) -> None:
        """Let `slot` have an adapter's parts, and the base's own where it has none."""
        self._beyond.discard(slot)
        if not self._linears.issuperset(views):
            self._beyond.add(slot)
        for path, site in self._sites.items():
            parts = views.get(path)
            if parts is None:
                site.clear(slot)
            else:
                site.put(slot, parts)

    def beyond_linears(self, routing: Routing) -> bool:
        """Whether a token's slot changes more than linears. Such a step has modules' own work in
        it, which a captured forward pass of other steps has not."""
        return not self._beyond.isdisjoint(segment.slot for segment in routing.segments)
