"""Adapters on the token embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from motet_adapters import SiteParts
from torch import Tensor, nn

from motet.engine.linear import CurrentRouting


@dataclass(frozen=True)
class _EmbeddingAdapter:
    """y = gain * (E[t] + scale * B A[:, t]), or a row of its own for some of the tokens."""

    at: Tensor | None  # [V, R], A transposed
    bt: Tensor | None  # [R, D], the adapter's scale folded in
    gain: Tensor | None  # [D], DoRA's
    replaced: Tensor | None  # int64 [n], ascending: tokens that have a row of their own
    rows: Tensor | None  # [n, D]


class EmbeddingSite:
    """The model's embedding and each slot's changes to it, applied behind its own forward.

    Every product is a sum over ranks in order, elementwise over the features: a token's bits are
    its own.
    """

    def __init__(self, module: nn.Module, routing: CurrentRouting) -> None:
        self._routing = routing
        self._scale = getattr(module, "embed_scale", None)  # of models that scale what they embed
        self._adapters: dict[int, _EmbeddingAdapter] = {}
        module.register_forward_hook(self._hook)

    def put(self, slot: int, parts: SiteParts) -> None:
        find = parts.tensors.get
        self._adapters[slot] = _EmbeddingAdapter(
            find("at"), find("bt"), find("gain"), find("rows_index"), find("rows")
        )

    def clear(self, slot: int) -> None:
        self._adapters.pop(slot, None)

    def _hook(self, _module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self._adapters:
            return output
        for slot, start, stop in self._routing.get().segments:
            adapter = self._adapters.get(slot)
            if adapter is not None:
                ids = arguments[0][0, start:stop]
                output[0, start:stop] = self._adapted(adapter, ids, output[0, start:stop])
        return output

    def _adapted(self, adapter: _EmbeddingAdapter, ids: Tensor, y: Tensor) -> Tensor:
        """ids [T], y [T, D], scaled where the model scales -> [T, D]."""
        wide = y.float()
        if adapter.at is not None and adapter.bt is not None:
            u, bt = adapter.at.index_select(0, ids).float(), adapter.bt.float()
            delta = torch.zeros_like(wide)
            for r in range(bt.shape[0]):
                delta += u[:, r, None] * bt[r]
            wide = wide + self._scaled(delta)
        if adapter.gain is not None:
            wide = wide * adapter.gain.float()
        if adapter.replaced is not None and adapter.rows is not None:
            place = torch.searchsorted(adapter.replaced, ids).clamp_(max=len(adapter.replaced) - 1)
            is_replaced = adapter.replaced[place] == ids
            rows = self._scaled(adapter.rows.index_select(0, place).float())
            wide = torch.where(is_replaced[:, None], rows, wide)
        return wide.to(y.dtype)

    def _scaled(self, y: Tensor) -> Tensor:
        if self._scale is None:
            return y
        return y * torch.as_tensor(self._scale, dtype=y.dtype, device=y.device)
