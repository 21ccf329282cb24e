"""Where each row of a step finds its queries and its cached keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class AttentionRow(NamedTuple):
    """One sequence's part of a step.

    The `num_tokens` queries [start, start + num_tokens) of the packed batch are the last
    positions of a context of `kv_len` keys: query i is at position kv_len - num_tokens + i and
    sees the keys up to its own position. Several rows may share a block table.
    """

    start: int
    num_tokens: int  # >= 1
    kv_len: int  # keys visible to the last query: its position + 1
    blocks: tuple[int, ...]  # block i holds positions [i * block_size, (i + 1) * block_size)


def check_rows(rows: Sequence[AttentionRow], block_size: int) -> int:
    """The number of tokens the rows cover; ValueError where the rows cannot be."""
    position = 0
    for row in rows:
        if row.start != position:
            raise ValueError(
                f"rows must cover the tokens in order and without gaps; "
                f"expected one that starts at {position}, got {row.start}"
            )
        if not 1 <= row.num_tokens <= row.kv_len:
            raise ValueError(
                f"a row has 1 to kv_len queries, got {row.num_tokens} of kv_len {row.kv_len}"
            )
        if len(row.blocks) * block_size < row.kv_len:
            raise ValueError(
                f"{len(row.blocks)} blocks of {block_size} hold less than kv_len {row.kv_len}"
            )
        position += row.num_tokens
    return position
