"""The paged KV cache's tensors, sized from a byte budget."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from motet.engine.survey import LayerShape
from motet.errors import InvalidSetting


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
    is read before it was stored, and memory that is never used is never touched.
    """

    def positions(heads: int, dim: int) -> Tensor:
        return torch.empty(num_blocks + 1, block_size, heads, dim, dtype=dtype, device=device)

    return {
        index: (
            positions(layer.num_kv_heads, layer.key_dim),
            positions(layer.num_kv_heads, layer.value_dim),
        )
        for index, layer in layers.items()
    }


def num_blocks_within(num_bytes: int, per_block: int, block_size: int, least_len: int) -> int:
    """Blocks that fit `num_bytes`. Raises InvalidSetting if `least_len` positions do not."""
    num_blocks = num_bytes // per_block - 1  # block 0 is the padding's
    least = -(-least_len // block_size)
    if num_blocks < least:
        raise InvalidSetting(
            f"a KV cache of {num_bytes} bytes holds {max(num_blocks, 0) * block_size} positions "
            f"of this model, too few for one request of {least_len}; "
            f"set kv_cache_bytes to at least {(least + 1) * per_block}"
        )
    return num_blocks
