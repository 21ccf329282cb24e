"""The pool of KV-cache blocks: integers handed out and taken back."""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """Hands out block numbers in [1, num_blocks]; block 0 is never handed out.

    Block 0 belongs to the padding rows of a batch, so that a padded key or value can never land
    in a block some request reads.

    Not thread-safe: the engine thread owns it.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError("a pool needs at least one block of at least one position")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks, 0, -1))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    def blocks_for(self, num_positions: int) -> int:
        """How many blocks hold `num_positions` positions."""
        return -(-num_positions // self.block_size)

    def grow(self, blocks: list[int], num_positions: int) -> bool:
        """Extend `blocks` in place until it holds `num_positions`; False, and no change, if not."""
        missing = self.blocks_for(num_positions) - len(blocks)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            block = self._free.pop()
            self._used.add(block)
            blocks.append(block)
        return True

    def free(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._used.remove(block)  # KeyError here is a double free: our bug, never the user's
            self._free.append(block)

    def audit(self) -> None:
        """Raise if blocks were lost or handed out twice (run when the engine is idle)."""
        free = set(self._free)
        if len(free) != len(self._free) or free & self._used:
            raise RuntimeError("a KV block is both free and in use")
        if len(free) + len(self._used) != self.num_blocks:
            raise RuntimeError("a KV block was lost")
