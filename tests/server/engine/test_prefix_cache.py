"""Blocks that are shared: who holds them, who is evicted, and that none is ever lost."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from motet.engine.blocks import BlockPool
from motet.engine.prefix_cache import PrefixCache, SharedBlocks

NUM_BLOCKS = 10


def taken(pool: BlockPool, count: int) -> list[int]:
    blocks: list[int] = []
    assert pool.grow(blocks, count * pool.block_size)
    return blocks


def test_what_was_put_is_found_until_its_room_is_wanted() -> None:
    pool = BlockPool(NUM_BLOCKS, 4)
    cache = PrefixCache(pool)
    old, new = (cache.put(key, taken(pool, 3), None) for key in (b"old", b"new"))
    cache.release(old)
    cache.release(new)
    assert cache.num_unused_blocks == 6
    assert cache.use(b"old") is old  # so that the other one is now the least recently used
    cache.release(old)
    assert cache.make_room(5)
    assert cache.use(b"new") is None
    assert cache.use(b"old") is old


def test_what_is_in_use_is_never_evicted() -> None:
    pool = BlockPool(NUM_BLOCKS, 4)
    cache = PrefixCache(pool)
    used = cache.put(b"used", taken(pool, 3), None)
    cache.release(cache.put(b"unused", taken(pool, 3), None))
    assert not cache.make_room(8)
    assert cache.num_unused_blocks == 3  # no change where it would not do
    assert cache.make_room(7)
    assert cache.use(b"used") is used


def test_forgotten_in_use_it_stays_until_its_last_user_goes() -> None:
    pool = BlockPool(NUM_BLOCKS, 4)
    cache = PrefixCache(pool)
    shared = cache.put(b"key", taken(pool, 3), "digest", partial=taken(pool, 1)[0])
    assert cache.use(b"key") is shared
    cache.forget_adapter("another")
    assert cache.use(b"key") is shared
    cache.forget_adapter("digest")
    assert cache.use(b"key") is None
    for _ in range(2):
        cache.release(shared)
        assert pool.num_free == NUM_BLOCKS - 4
    cache.release(shared)
    assert pool.num_free == NUM_BLOCKS
    with pytest.raises(ValueError, match="more often"):
        cache.release(shared)


def test_a_key_names_one_prefix() -> None:
    pool = BlockPool(NUM_BLOCKS, 4)
    cache = PrefixCache(pool)
    cache.put(b"key", taken(pool, 1), None)
    with pytest.raises(ValueError, match="already"):
        cache.put(b"key", taken(pool, 1), None)


def test_the_audit_notices_a_user_that_is_gone() -> None:
    pool = BlockPool(NUM_BLOCKS, 4)
    cache = PrefixCache(pool)
    shared = cache.put(b"key", taken(pool, 1), None)
    cache.audit([shared])
    with pytest.raises(RuntimeError, match="not running"):
        cache.audit([])


class Holders(RuleBasedStateMachine):
    """Any order of putting, using, releasing, forgetting and making room."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, 4)
        self.cache = PrefixCache(self.pool)
        self.held: list[SharedBlocks] = []
        self.own: list[int] = []

    @rule(key=st.binary(min_size=1, max_size=1), count=st.integers(1, 3), partial=st.booleans())
    def put(self, key: bytes, count: int, partial: bool) -> None:
        if not self.cache.make_room(count + partial):
            return
        blocks = taken(self.pool, count + partial)
        try:
            shared = self.cache.put(
                key, blocks[:count], key.hex()[0], blocks[count] if partial else None
            )
        except ValueError:
            self.pool.free(blocks)
        else:
            self.held.append(shared)

    @rule(key=st.binary(min_size=1, max_size=1))
    def use(self, key: bytes) -> None:
        shared = self.cache.use(key)
        if shared is not None:
            assert shared.key == key
            self.held.append(shared)

    @rule(index=st.integers(0))
    def release(self, index: int) -> None:
        if self.held:
            self.cache.release(self.held.pop(index % len(self.held)))

    @rule(count=st.integers(0, NUM_BLOCKS))
    def grow(self, count: int) -> None:
        self.cache.make_room(count)
        self.pool.grow(self.own, count * 4)

    @rule()
    def shrink(self) -> None:
        self.pool.free(self.own)
        self.own.clear()

    @rule(adapter=st.sampled_from("0123456789abcdef"))
    def forget(self, adapter: str) -> None:
        self.cache.forget_adapter(adapter)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        assert self.cache.num_unused_blocks == 0

    @invariant()
    def adds_up(self) -> None:
        self.pool.audit()
        self.cache.audit(self.held)
        blocks = [block for shared in set(self.held) for block in shared.every_block] + self.own
        assert len(set(blocks)) == len(blocks), "two hold one block"
        unused = self.cache.num_unused_blocks
        assert len(blocks) + unused + self.pool.num_free == NUM_BLOCKS
        assert self.cache.num_blocks == len(blocks) - len(self.own) + unused


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=40)
