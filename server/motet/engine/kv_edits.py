"""What is to be done to the KV cache beside the forward pass, as data."""

from __future__ import annotations

from dataclasses import dataclass

from motet_adapters import Slot


@dataclass(frozen=True)
class CopyBlock:
    """All keys and values of block `source` to block `target`."""

    source: int
    target: int


@dataclass(frozen=True)
class StorePrefix:
    """The keys and values an adapter brings, into `blocks`, from the first position on."""

    slot: Slot
    blocks: tuple[int, ...]


KvEdit = CopyBlock | StorePrefix
"""What is to be done to the KV cache, in order, before a step's forward pass."""
