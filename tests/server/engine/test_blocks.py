import pytest
from hypothesis import given
from hypothesis import strategies as st
from motet.engine.blocks import BlockPool


def test_block_zero_is_never_handed_out() -> None:
    pool = BlockPool(num_blocks=3, block_size=4)
    blocks: list[int] = []
    assert pool.grow(blocks, 12)
    assert sorted(blocks) == [1, 2, 3]


def test_growing_takes_only_what_is_missing() -> None:
    pool = BlockPool(num_blocks=3, block_size=4)
    blocks: list[int] = []
    assert pool.grow(blocks, 4)
    assert pool.grow(blocks, 4)
    assert len(blocks) == 1
    assert pool.grow(blocks, 5)
    assert len(blocks) == 2


def test_growing_beyond_the_pool_changes_nothing() -> None:
    pool = BlockPool(num_blocks=2, block_size=4)
    blocks: list[int] = []
    assert not pool.grow(blocks, 9)
    assert blocks == []
    assert pool.num_free == 2


def test_a_double_free_is_noticed() -> None:
    pool = BlockPool(num_blocks=2, block_size=4)
    blocks: list[int] = []
    pool.grow(blocks, 1)
    pool.free(blocks)
    with pytest.raises(KeyError):
        pool.free(blocks)


def test_the_audit_notices_a_lost_block() -> None:
    pool = BlockPool(num_blocks=2, block_size=4)
    pool._free.pop()
    with pytest.raises(RuntimeError, match="lost"):
        pool.audit()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=60))
def test_blocks_always_add_up(operations: list[tuple[int, int]]) -> None:
    """Positions asked for grow an owner; zero frees it. No two owners ever share a block."""
    pool = BlockPool(num_blocks=12, block_size=4)
    owners: list[list[int]] = [[] for _ in range(5)]
    for owner, positions in operations:
        if positions:
            pool.grow(owners[owner], positions)
        else:
            pool.free(owners[owner])
            owners[owner].clear()
        held = [block for blocks in owners for block in blocks]
        assert len(set(held)) == len(held)
        assert len(held) + pool.num_free == 12
        pool.audit()
