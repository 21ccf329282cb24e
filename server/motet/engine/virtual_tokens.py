"""Positions that an adapter puts before every prompt: as embeddings, or as keys and values.

Prompt tuning (arXiv 2104.08691) and P-tuning (arXiv 2103.10385) bring embeddings, which run through
the model like any token's. Prefix tuning (arXiv 2101.00190) brings what is to stand in the KV cache
itself, where no rotary embedding is applied to it any more. Real tokens follow at position P.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motet_adapters import AdapterLoadFailed, Slot
from motet_adapters.image import Image
from torch import Tensor, nn

from motet.engine.survey import LayerShape

PREFIX_SITE = "prefix"
"""The place of an adapter's image that holds them: the part "embeddings" [P, D], or for each layer
"keys.<layer>" [P, Hkv, D] and "values.<layer>" [P, Hkv, Dv]."""


@dataclass(frozen=True)
class VirtualRow:
    """Tokens of a batch, from `start` on, that take these embeddings [n, D] for their own."""

    start: int
    embeddings: Tensor


def virtual_embeddings(slot: Slot | None, start: int, stop: int) -> Tensor:
    """[stop - start, D]: those of positions [start, stop)."""
    if slot is None:
        raise ValueError("virtual tokens come with an adapter, and none is on the device")
    return slot.views[PREFIX_SITE].tensors["embeddings"][start:stop]


def stores_keys(slot: Slot) -> bool:
    """Whether the adapter brings keys and values, so that nothing need be computed."""
    site = slot.views.get(PREFIX_SITE)
    return site is not None and "embeddings" not in site.tensors


def stored_keys(slot: Slot) -> Mapping[int, tuple[Tensor, Tensor]]:
    """Layer -> keys [P, Hkv, D] and values [P, Hkv, Dv]."""
    tensors = slot.views[PREFIX_SITE].tensors
    return {
        int(name.removeprefix("keys.")): (keys, tensors[name.replace("keys", "values")])
        for name, keys in tensors.items()
        if name.startswith("keys.")
    }


def require_fit(image: Image, layers: Mapping[int, LayerShape]) -> None:
    """Raises AdapterLoadFailed for keys or values that the model's KV cache has no room for.

    An upload is checked against the configuration of the base; this is what its layers do.
    """
    site = image.entries.get(PREFIX_SITE)
    parts = site.parts if site is not None else {}
    for name, part in parts.items():
        kind, _, layer = name.partition(".")
        if kind not in ("keys", "values"):
            continue
        shape = layers.get(int(layer))
        size = None if shape is None else shape.key_dim if kind == "keys" else shape.value_dim
        if shape is None or part.shape[1:] != (shape.num_kv_heads, size):
            raise AdapterLoadFailed(
                image.digest, f"The adapter's {kind} do not fit layer {layer} of the base."
            )


class VirtualEmbedding:
    """Puts virtual tokens' embeddings in the place of what the model's embedding returns.

    There PEFT puts them too: whatever a model does to its embeddings afterwards, such as scaling
    them, it does to these as well, and what its embedding does itself it does not.
    """

    def __init__(self, module: nn.Module) -> None:
        self._rows: tuple[VirtualRow, ...] = ()
        module.register_forward_hook(self._hook)

    def set(self, rows: Sequence[VirtualRow]) -> None:
        """Those of the running step."""
        self._rows = tuple(rows)

    def _hook(self, _module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        for row in self._rows:
            output[0, row.start : row.start + len(row.embeddings)] = row.embeddings
        return output
