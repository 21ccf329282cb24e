"""KV blocks that are computed once and read by many, kept until their room is wanted.

The idea of keying blocks by a chain of hashes is vLLM's (v1/core/kv_cache_utils.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from motet.engine.blocks import BlockPool


class Stretch(NamedTuple):
    """Positions [start, stop) of a sequence; start is a block's first, stop ends a block."""

    key: bytes
    start: int
    stop: int
    adapter: str | None  # digest of the adapter whose weights are in its keys and values


@dataclass(eq=False)
class SharedBlocks:
    """A run of blocks that nobody writes any more. `num_users` sequences read them now."""

    key: bytes
    blocks: tuple[int, ...]
    adapter: str | None
    """Digest of the adapter whose weights are in them; None: the base's alone."""
    partial: int | None = None
    """A block that is shared by being copied, because each user goes on writing behind it."""
    num_users: int = 1
    is_kept: bool = True
    """False once it is forgotten: its blocks are free with its last user."""

    @property
    def every_block(self) -> tuple[int, ...]:
        return self.blocks if self.partial is None else (*self.blocks, self.partial)


class PrefixCache:
    """Runs of blocks by key: those in use, and those without users, least recently used first.

    Blocks in here belong to the cache and not to the sequences that read them.
    Not thread-safe: the engine thread owns it.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._used: set[SharedBlocks] = set()
        self._unused: dict[bytes, SharedBlocks] = {}  # in the order they may be evicted in
        self._by_key: dict[bytes, SharedBlocks] = {}
        self.num_unused_blocks = 0
        self.num_evictions = 0

    @property
    def num_blocks(self) -> int:
        """Blocks that belong to the cache, whether they are in use or not."""
        used = sum(len(shared.every_block) for shared in self._used)
        return used + self.num_unused_blocks

    def put(
        self, key: bytes, blocks: Iterable[int], adapter: str | None, partial: int | None = None
    ) -> SharedBlocks:
        """Take over blocks of the pool; the caller is their first user. The key must be new."""
        if key in self._by_key:
            raise ValueError("this prefix is in the cache already")
        shared = SharedBlocks(key, tuple(blocks), adapter, partial)
        self._by_key[key] = shared
        self._used.add(shared)
        return shared

    def use(self, key: bytes) -> SharedBlocks | None:
        """The run of that key with one user more, or None."""
        shared = self._by_key.get(key)
        if shared is None:
            return None
        if shared.num_users == 0:
            del self._unused[key]
            self.num_unused_blocks -= len(shared.every_block)
            self._used.add(shared)
        shared.num_users += 1
        return shared

    def release(self, shared: SharedBlocks) -> None:
        """Undo one `use`, or the `put`. Raises ValueError when there is none to undo."""
        if shared.num_users < 1:
            raise ValueError("a shared prefix is released more often than it was used")
        shared.num_users -= 1
        if shared.num_users:
            return
        self._used.remove(shared)
        if shared.is_kept:
            self._unused[shared.key] = shared
            self.num_unused_blocks += len(shared.every_block)
        else:
            self._pool.free(shared.every_block)

    def make_room(self, num_blocks: int) -> bool:
        """Evict runs without users until the pool has `num_blocks` free; False, and no change,
        if evicting them all would not do."""
        if self._pool.num_free + self.num_unused_blocks < num_blocks:
            return False
        while self._pool.num_free < num_blocks:
            self.forget(next(iter(self._unused.values())))
            self.num_evictions += 1
        return True

    def forget(self, shared: SharedBlocks) -> None:
        """Let nobody find it any more; its blocks are free now or with its last user."""
        if not shared.is_kept:
            return
        shared.is_kept = False
        del self._by_key[shared.key]
        if shared.num_users == 0:
            del self._unused[shared.key]
            self.num_unused_blocks -= len(shared.every_block)
            self._pool.free(shared.every_block)

    def forget_adapter(self, digest: str) -> None:
        """Forget all that this adapter's weights are in."""
        for shared in [one for one in self._by_key.values() if one.adapter == digest]:
            self.forget(shared)

    def clear(self) -> None:
        """Forget everything."""
        for shared in tuple(self._by_key.values()):
            self.forget(shared)

    def audit(self, users: Iterable[SharedBlocks]) -> None:
        """Raise unless the runs' users are these, each named once for each use."""
        counts: dict[SharedBlocks, int] = {}
        for shared in users:
            counts[shared] = counts.get(shared, 0) + 1
        if counts != {shared: shared.num_users for shared in self._used}:
            raise RuntimeError("a shared prefix is in use by a sequence that is not running")
        if any(shared.num_users for shared in self._unused.values()):
            raise RuntimeError("a shared prefix in use is about to be evicted")
        unused = sum(len(shared.every_block) for shared in self._unused.values())
        if unused != self.num_unused_blocks:
            raise RuntimeError("blocks of shared prefixes were lost")
