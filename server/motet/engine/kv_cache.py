"""The paged KV cache's tensors, sized from a byte budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from motet.engine.huge_pages import prefer_huge_pages
from motet.engine.kv_edits import CopyBlock, KvEdit
from motet.engine.survey import LayerShape
from motet.engine.virtual_tokens import stored_keys
from motet.errors import InvalidSetting

LEAST_LEN = 16
"""Positions of each of the probe's two sequences that any cache must have room for."""


def block_bytes(layers: Mapping[int, LayerShape], block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block over all layers, keys and values."""
    per_position = sum(
        layer.num_kv_heads * (layer.key_dim + layer.value_dim) for layer in layers.values()
    )
    return per_position * block_size * dtype.itemsize


def allocate(
    layers: Mapping[int, LayerShape],
    num_blocks: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Per layer: keys [P, block_size, Hkv, D] and values [P, block_size, Hkv, Dv].

    P is `num_blocks` + 1: block 0 takes what padding rows write. Nothing is filled in: no position
    is read before it was stored, and memory that is never used is never touched, but for the rest
    of a large page (`huge_pages.py`).
    """

    def positions(heads: int, dim: int) -> Tensor:
        cache = torch.empty(num_blocks + 1, block_size, heads, dim, dtype=dtype, device=device)
        if device.type == "cpu":
            prefer_huge_pages(cache)
        return cache

    return {
        index: (
            positions(layer.num_kv_heads, layer.key_dim),
            positions(layer.num_kv_heads, layer.value_dim),
        )
        for index, layer in layers.items()
    }


def edit(caches: Mapping[int, tuple[Tensor, Tensor]], edits: Sequence[KvEdit]) -> None:
    """Make the edits in the caches of `allocate`, one after the other."""
    for item in edits:
        if isinstance(item, CopyBlock):
            for cache in (cache for pair in caches.values() for cache in pair):
                cache[item.target].copy_(cache[item.source])
            continue
        for layer, stored in stored_keys(item.slot).items():
            for cache, values in zip(caches[layer], stored, strict=True):
                _fill(cache, item.blocks, values)


def _fill(cache: Tensor, blocks: Sequence[int], values: Tensor) -> None:
    """values [P, H, D] into the first P positions of these blocks."""
    size = cache.shape[1]
    for index, block in enumerate(blocks):
        part = values[index * size : (index + 1) * size]
        cache[block, : len(part)] = part


def num_blocks_within(num_bytes: int, per_block: int, block_size: int) -> int:
    """Blocks that fit `num_bytes` beside the padding's. Raises InvalidSetting if they are too few
    for the two short sequences of the start-up probe."""
    num_blocks = num_bytes // per_block - 1
    least = 2 * -(-LEAST_LEN // block_size)
    if num_blocks < least:
        raise InvalidSetting(
            f"a KV cache of {num_bytes} bytes is too small for this model; set kv_cache_bytes to "
            f"at least {(least + 1) * per_block}, and to more for requests of any length",
            param="kv_cache_bytes",
        )
    return num_blocks
