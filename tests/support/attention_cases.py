"""Inputs for attention: rows over a paged cache that is NaN wherever no row may look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from motet_kernels import AttentionRow, Ops
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Heads:
    num_heads: int = 4
    num_kv_heads: int = 2
    size: int = 16
    value_size: int = 16


@dataclass(frozen=True)
class AttentionCase:
    """Sequences of known keys and values, scattered over the blocks of a cache.

    lens: (num_tokens, kv_len) of each row; each has its own sequence, with its own data.
    """

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    rows: tuple[AttentionRow, ...]
    block_size: int

    @classmethod
    def make(
        cls,
        lens: Sequence[tuple[int, int]],
        dtype: torch.dtype,
        *,
        heads: Heads = Heads(),
        block_size: int = 16,
    ) -> AttentionCase:
        generator = torch.Generator().manual_seed(7)
        num_blocks = sum(-(-kv_len // block_size) for _, kv_len in lens) + 1
        order = torch.randperm(num_blocks, generator=generator).tolist()
        shape = (num_blocks, block_size, heads.num_kv_heads)
        k_cache = torch.full((*shape, heads.size), torch.nan)
        v_cache = torch.full((*shape, heads.value_size), torch.nan)
        rows, start = [], 0
        for num_tokens, kv_len in lens:
            blocks = tuple(order.pop() for _ in range(-(-kv_len // block_size)))
            for p in range(kv_len):
                block, offset = blocks[p // block_size], p % block_size
                k_cache[block, offset] = torch.randn(k_cache.shape[2:], generator=generator)
                v_cache[block, offset] = torch.randn(v_cache.shape[2:], generator=generator)
            rows.append(AttentionRow(start, num_tokens, kv_len, blocks))
            start += num_tokens
        q = torch.randn(start, heads.num_heads, heads.size, generator=generator)
        return cls(q.to(dtype), k_cache.to(dtype), v_cache.to(dtype), tuple(rows), block_size)

    def only(self, index: int) -> AttentionCase:
        """The row alone in a batch, over the same cache."""
        row = self.rows[index]
        q = self.q[row.start : row.start + row.num_tokens].clone()
        return replace(self, q=q, rows=(row._replace(start=0),))

    def with_rows(self, order: Sequence[int]) -> AttentionCase:
        """The rows in another order, some left out."""
        rows, parts, start = [], [], 0
        for index in order:
            row = self.rows[index]
            parts.append(self.q[row.start : row.start + row.num_tokens])
            rows.append(row._replace(start=start))
            start += row.num_tokens
        return replace(self, q=torch.cat(parts), rows=tuple(rows))

    def run(
        self, ops: Ops, *, window: int | None = None, softcap: float | None = None
    ) -> list[Tensor]:
        """The output of each row [num_tokens, Hq, Dv]."""
        plan = ops.plan_attention(self.rows, self.block_size, CPU)
        out = ops.attention(
            self.q, self.k_cache, self.v_cache, plan, scale=0.3, window=window, softcap=softcap
        )
        return [out[row.start : row.start + row.num_tokens] for row in self.rows]

    def expected(self, *, window: int | None = None, softcap: float | None = None) -> list[Tensor]:
        """The same by a loop over rows, queries, heads and keys, in float64."""
        return [self._row(row, window, softcap) for row in self.rows]

    def _row(self, row: AttentionRow, window: int | None, softcap: float | None) -> Tensor:
        num_heads, num_kv_heads = self.q.shape[1], self.k_cache.shape[2]
        out = torch.zeros(row.num_tokens, num_heads, self.v_cache.shape[3], dtype=torch.float64)
        for i in range(row.num_tokens):
            position = row.kv_len - row.num_tokens + i
            for head in range(num_heads):
                kv_head = head * num_kv_heads // num_heads
                weights, values = [], []
                for p in range(position + 1):
                    if window is not None and position - p >= window:
                        continue
                    block, offset = row.blocks[p // self.block_size], p % self.block_size
                    key = self.k_cache[block, offset, kv_head].double()
                    score = 0.3 * float(self.q[row.start + i, head].double() @ key)
                    score = score if softcap is None else softcap * math.tanh(score / softcap)
                    weights.append(math.exp(score))
                    values.append(self.v_cache[block, offset, kv_head].double())
                total = sum(weights)
                for weight, value in zip(weights, values, strict=True):
                    out[i, head] += weight / total * value
        return out
