"""Who shares which KV blocks: what a sequence finds computed, and what it leaves for others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from motet_adapters import Slot

from motet.engine.blocks import BlockPool
from motet.engine.kv_edits import CopyBlock, KvEdit, StorePrefix
from motet.engine.prefix_cache import PrefixCache, SharedBlocks, Stretch
from motet.engine.prompt_stretch import stretches
from motet.engine.sequence import Sequence
from motet.engine.virtual_tokens import stores_keys

PrefixScope = Literal["off", "tenant"]
"""Whose prompts may share blocks. Never two tenants': the time an answer takes would tell one
what another had asked."""


class Sharing:
    """The pool's blocks as sequences get them: shared ones first, then their own.

    Not thread-safe: the engine thread owns it, `stretches` excepted.
    """

    def __init__(self, pool: BlockPool, chunk_len: int, scope: PrefixScope) -> None:
        self.pool = pool
        self.cache = PrefixCache(pool)
        self.num_cached_tokens = 0  # prompt tokens that were found and not computed
        self._grain = math.lcm(chunk_len, pool.block_size)
        self._scope = scope
        self._computing: dict[bytes, Sequence] = {}  # whoever computes virtual tokens, by their key
        self._edits: list[KvEdit] = []

    @property
    def num_available(self) -> int:
        """Blocks a sequence could have now: free ones, and those of prefixes nobody uses."""
        return self.pool.num_free + self.cache.num_unused_blocks

    def stretches(self, sequence: Sequence) -> tuple[Stretch, ...]:
        """The parts of its prompt that may be shared. May be called from any thread."""
        if self._scope == "off":
            return ()
        return stretches(sequence, self._grain, self.pool.block_size)

    def take_edits(self) -> tuple[KvEdit, ...]:
        """What must be done to the cache before the next forward pass; asked for once."""
        edits, self._edits = tuple(self._edits), []
        return edits

    def attach(self, sequence: Sequence) -> None:
        """Let a sequence without blocks begin with all that is there of its prefix."""
        if sequence.num_virtual and not self._attach_virtual(sequence):
            return
        for stretch in self._stretches(sequence):
            # The last token is always computed: its logits are wanted.
            if stretch.stop >= sequence.length:
                return
            shared = self.cache.use(stretch.key)
            if shared is None:
                return
            self._append(sequence, shared, stretch.stop)

    def has_room_for(self, sequence: Sequence) -> bool:
        """Whether all its positions and one more would fit, behind what is attached."""
        wanted = self.pool.blocks_for(sequence.length + 1) - len(sequence.blocks)
        return wanted + self._spare(sequence) <= self.num_available

    def must_wait(self, sequence: Sequence) -> bool:
        """Whether somebody is just computing the virtual tokens that this sequence needs."""
        return self._lacks_virtual(sequence) and _virtual_key(sequence) in self._computing

    def begin(self, sequence: Sequence) -> None:
        """For a sequence that is attached, has room and its slot: see to its virtual tokens."""
        if self._lacks_virtual(sequence):
            assert sequence.slot is not None, "virtual tokens come with an adapter"
            if stores_keys(sequence.slot):
                self._store(sequence, sequence.slot)
            else:
                self._computing[_virtual_key(sequence)] = sequence
        size = self.pool.block_size
        shared = sequence.shared[-1] if sequence.shared else None
        if shared is not None and shared.partial is not None:
            full = len(sequence.blocks)
            if not self.grow(sequence, (full + 1) * size):
                raise RuntimeError("free blocks vanished between the check and the allocation")
            self._edits.append(CopyBlock(shared.partial, sequence.blocks[full]))
        if sequence.num_cached is None:
            sequence.num_cached = max(sequence.num_computed - sequence.num_virtual, 0)
            self.num_cached_tokens += sequence.num_cached

    def grow(self, sequence: Sequence, num_positions: int) -> bool:
        """Blocks of its own until it has room for `num_positions`; False, and no change, if there
        are not enough."""
        missing = self.pool.blocks_for(num_positions) - len(sequence.blocks)
        self.cache.make_room(missing)
        return self.pool.grow(sequence.blocks, num_positions)

    def publish(self, sequence: Sequence) -> None:
        """Share what the sequence has computed of its prefix and will not write again."""
        if not sequence.num_virtual and not sequence.stretches:
            return
        if self._lacks_virtual(sequence) and not self._publish_virtual(sequence):
            return
        num_published = len(sequence.shared) - bool(sequence.num_virtual)
        for stretch in self._stretches(sequence)[num_published:]:
            if stretch.stop > sequence.num_computed:
                return
            self._publish(sequence, stretch)

    def detach(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Take all blocks from a sequence. forget: nobody is to find what it shared."""
        own = sequence.blocks[_num_shared(sequence) :]
        # The first stretches last, so that the last ones are evicted first.
        for shared in reversed(sequence.shared):
            if forget:
                self.cache.forget(shared)
            self.cache.release(shared)
        self.pool.free(own)
        sequence.shared.clear()
        sequence.blocks.clear()
        sequence.num_computed = 0
        if self._computing.get(_virtual_key(sequence)) is sequence:
            del self._computing[_virtual_key(sequence)]

    def forget_adapters(self, digests: Iterable[str]) -> None:
        """Forget all that was computed with these adapters, or stored for them."""
        for digest in digests:
            self.cache.forget_adapter(digest)

    def clear(self) -> None:
        """Forget everything, edits to come included."""
        self._edits.clear()
        self.cache.clear()

    def audit(self, running: Iterable[Sequence]) -> None:
        """Raise if blocks were lost, or are held by anything but these sequences and the cache."""
        self.pool.audit()
        own, users = 0, list[SharedBlocks]()
        for sequence in running:
            own += len(sequence.blocks) - _num_shared(sequence)
            users += sequence.shared
        self.cache.audit(users)
        if own + self.cache.num_blocks + self.pool.num_free != self.pool.num_blocks:
            raise RuntimeError("KV blocks are held by a sequence that is not running")

    def _stretches(self, sequence: Sequence) -> tuple[Stretch, ...]:
        if sequence.stretches is None:
            sequence.stretches = self.stretches(sequence)
        return sequence.stretches

    def _append(self, sequence: Sequence, shared: SharedBlocks, num_computed: int) -> None:
        sequence.shared.append(shared)
        sequence.blocks += shared.blocks
        sequence.num_computed = num_computed

    def _publish(self, sequence: Sequence, stretch: Stretch) -> None:
        size = self.pool.block_size
        blocks = slice(stretch.start // size, stretch.stop // size)
        shared = self.cache.use(stretch.key)
        if shared is None:
            shared = self.cache.put(stretch.key, sequence.blocks[blocks], stretch.adapter)
        else:
            # Another sequence was first, with the same bits: one copy of them is enough.
            self.pool.free(sequence.blocks[blocks])
            sequence.blocks[blocks] = shared.blocks
        sequence.shared.append(shared)

    # virtual tokens

    def _lacks_virtual(self, sequence: Sequence) -> bool:
        return bool(sequence.num_virtual) and not sequence.shared

    def _spare(self, sequence: Sequence) -> int:
        """Blocks beyond a sequence's own: virtual tokens that fill no whole block have theirs."""
        is_partial = sequence.num_virtual % self.pool.block_size != 0
        return int(self._lacks_virtual(sequence) and is_partial)

    def _attach_virtual(self, sequence: Sequence) -> bool:
        shared = self.cache.use(_virtual_key(sequence))
        if shared is not None:
            self._append(sequence, shared, sequence.num_virtual)
        return shared is not None

    def _store(self, sequence: Sequence, slot: Slot) -> None:
        """Set blocks aside for keys and values that the adapter brings, and attach them."""
        blocks: list[int] = []
        self.cache.make_room(self.pool.blocks_for(sequence.num_virtual))
        if not self.pool.grow(blocks, sequence.num_virtual):
            raise RuntimeError("free blocks vanished between the check and the allocation")
        self._edits.append(StorePrefix(slot, tuple(blocks)))
        full = sequence.num_virtual // self.pool.block_size
        partial = blocks[full] if full < len(blocks) else None
        shared = self.cache.put(_virtual_key(sequence), blocks[:full], _digest(sequence), partial)
        self._append(sequence, shared, sequence.num_virtual)

    def _publish_virtual(self, sequence: Sequence) -> bool:
        """Share the virtual tokens a sequence has computed; False if it has not, or there is no
        block left for a copy of the last of them."""
        if sequence.num_computed < sequence.num_virtual:
            return False
        full = sequence.num_virtual // self.pool.block_size
        partial: list[int] = []
        if sequence.num_virtual % self.pool.block_size:
            self.cache.make_room(1)
            if not self.pool.grow(partial, 1):
                return False
            # Behind the virtual tokens the copy has what follows in this sequence, which every
            # user overwrites before it is read.
            self._edits.append(CopyBlock(sequence.blocks[full], partial[0]))
        key, digest = _virtual_key(sequence), _digest(sequence)
        shared = self.cache.put(
            key, sequence.blocks[:full], digest, partial[0] if partial else None
        )
        sequence.shared.append(shared)
        self._computing.pop(key, None)
        return True


def _num_shared(sequence: Sequence) -> int:
    return sum(len(shared.blocks) for shared in sequence.shared)


def _digest(sequence: Sequence) -> str:
    adapter = sequence.request.adapter
    return "" if adapter is None else adapter.digest


def _virtual_key(sequence: Sequence) -> bytes:
    """Of one tenant's adapter, though the same file may be another's too. No SHA-256 has this
    length, so it is no prompt's key."""
    return f"virtual {_digest(sequence)} {sequence.request.tenant}".encode()
