"""Paged attention in plain torch, the same code on the CPU and on CUDA.

One-token rows are computed in batches whose padded length is a function of the row alone, rows
with more tokens one by one: so no row's shapes, and with them no row's bits, depend on the others.
Padding repeats the row's own last key under a mask: nothing past kv_len is ever read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from motet_kernels.attention_layout import AttentionRow, check_rows
from motet_kernels.ops import AttentionPlan

# One-token rows are padded to a multiple of this many keys. Smaller wastes fewer keys, larger
# makes fewer and fuller batches.
BUCKET_LEN = 64

# Rows whose length is a multiple of this start on a cache line wherever they are in a batch; with
# others, matrix libraries sum in an order that depends on the place.
ALIGNED_LEN = 16


@dataclass(frozen=True)
class Bucket:
    """Rows of one shape: M queries each over L gathered keys.

    tokens: int64 [rows * M], their queries in the packed batch; None: the whole batch, in order.
    places: int64 [rows * L], block * block_size + offset of each key, own keys only.
    visible: bool [rows, 1, M, L].
    """

    num_rows: int
    num_tokens: int  # M
    num_keys: int  # L
    tokens: Tensor | None
    places: Tensor
    visible: Tensor
    _masks: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """0 where a key is visible, -inf elsewhere: [rows, 1, M, L]."""
        if dtype not in self._masks:
            zeros = torch.zeros(self.visible.shape, dtype=dtype, device=self.visible.device)
            self._masks[dtype] = zeros.masked_fill_(~self.visible, -torch.inf)
        return self._masks[dtype]


@dataclass(frozen=True)
class TorchAttentionPlan(AttentionPlan):
    """The rows of a step, and the buckets of each window value, made when first asked for."""

    rows: tuple[AttentionRow, ...]
    block_size: int
    device: torch.device
    _buckets: dict[int | None, tuple[Bucket, ...]] = field(default_factory=dict)

    def buckets(self, window: int | None) -> tuple[Bucket, ...]:
        if window not in self._buckets:
            self._buckets[window] = tuple(self._build(window))
        return self._buckets[window]

    def _build(self, window: int | None) -> Iterable[Bucket]:
        single: dict[int, list[AttentionRow]] = defaultdict(list)
        for row in self.rows:
            if row.num_tokens == 1:
                num_keys = row.kv_len if window is None else min(row.kv_len, window)
                single[-(-num_keys // BUCKET_LEN) * BUCKET_LEN].append(row)
            else:
                first = _first_key(row, window)
                yield self._bucket([row], row.num_tokens, row.kv_len - first, window)
        for num_keys, rows in single.items():
            yield self._bucket(rows, 1, num_keys, window)

    def _bucket(
        self, rows: Sequence[AttentionRow], num_tokens: int, num_keys: int, window: int | None
    ) -> Bucket:
        first = torch.tensor([_first_key(row, window) for row in rows])[:, None]  # [rows, 1]
        kv_len = torch.tensor([row.kv_len for row in rows])[:, None]
        keys = first + torch.arange(num_keys)  # [rows, L]
        queries = kv_len - num_tokens + torch.arange(num_tokens)  # [rows, M]
        visible = keys[:, None, :] <= queries[:, :, None]  # [rows, M, L]
        if window is not None:
            visible &= keys[:, None, :] > queries[:, :, None] - window
        width = max(len(row.blocks) for row in rows)
        tables = torch.tensor([[*row.blocks, *[0] * (width - len(row.blocks))] for row in rows])
        own = keys.clamp(max=kv_len - 1)
        places = tables.gather(1, own // self.block_size) * self.block_size
        places += own % self.block_size
        return Bucket(
            num_rows=len(rows),
            num_tokens=num_tokens,
            num_keys=num_keys,
            tokens=self._tokens(rows),
            places=places.flatten().to(self.device),
            visible=visible[:, None].to(self.device),
        )

    def _tokens(self, rows: Sequence[AttentionRow]) -> Tensor | None:
        if len(rows) == len(self.rows):
            return None
        tokens = [t for row in rows for t in range(row.start, row.start + row.num_tokens)]
        return torch.tensor(tokens).to(self.device)


def plan_attention(
    rows: Sequence[AttentionRow], block_size: int, device: torch.device
) -> TorchAttentionPlan:
    """`Ops.plan_attention` for the torch path."""
    return TorchAttentionPlan(check_rows(rows, block_size), tuple(rows), block_size, device)


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """`Ops.store_kv` for the torch path."""
    k_cache.view(-1, *k_cache.shape[2:]).index_copy_(0, slots, k)
    v_cache.view(-1, *v_cache.shape[2:]).index_copy_(0, slots, v)


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: TorchAttentionPlan,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`Ops.attention` for the torch path."""
    buckets = plan.buckets(window)
    if len(buckets) == 1:
        return _attend(q, k_cache, v_cache, buckets[0], scale, softcap)
    out = q.new_empty(q.shape[0], q.shape[1], v_cache.shape[3])
    for bucket in buckets:
        assert bucket.tokens is not None
        queries = q.index_select(0, bucket.tokens)
        result = _attend(queries, k_cache, v_cache, bucket, scale, softcap)
        out.index_copy_(0, bucket.tokens, result)
    return out


def _attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    bucket: Bucket,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Queries [rows * M, Hq, D] of one bucket -> [rows * M, Hq, Dv]."""
    rows, m = bucket.num_rows, bucket.num_tokens
    k, v = _gather(k_cache, bucket), _gather(v_cache, bucket)  # [rows, Hkv, L, D or Dv]
    num_kv_heads, group = k.shape[1], q.shape[1] // k.shape[1]
    # a kv head's queries become one long query axis: [rows, Hkv, G * M, D]
    q = q.view(rows, m, num_kv_heads, group, -1).permute(0, 2, 3, 1, 4)
    q = q.reshape(rows, num_kv_heads, group * m, -1)
    if softcap is None and _may_fuse(q, v, m):
        mask = bucket.mask(q.dtype).repeat(1, 1, group, 1)
        # in one layout whatever the caller's: the fused kernel's bits depend on strides too
        out = F.scaled_dot_product_attention(q.contiguous(), k, v, attn_mask=mask, scale=scale)
    else:
        mask = bucket.mask(torch.float32)
        out = _explicit(q, k, v, mask if m == 1 else mask.repeat(1, 1, group, 1), scale, softcap)
    out = out.view(rows, num_kv_heads, group, m, -1).permute(0, 3, 1, 2, 4)
    return out.reshape(rows * m, num_kv_heads * group, -1)


def _gather(cache: Tensor, bucket: Bucket) -> Tensor:
    num_blocks, block_size, num_heads, size = cache.shape
    flat = cache.view(num_blocks * block_size, num_heads * size)
    rows = flat.index_select(0, bucket.places)
    return rows.view(bucket.num_rows, bucket.num_keys, num_heads, size).transpose(1, 2)


def _may_fuse(q: Tensor, v: Tensor, num_tokens: int) -> bool:
    """Whether torch's fused kernel can do it with each row's bits its own.

    Rows of one token come in batches, and on the CPU the kernel divides the keys among threads by
    the number of rows and heads: a batch of rows gives other bits than a row alone.
    """
    size = q.shape[-1]
    fits = size == v.shape[-1] and size % ALIGNED_LEN == 0
    return fits and (q.device.type != "cpu" or num_tokens > 1)


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """Attention in float32 by two batched products. q [rows, Hkv, G * M, D].

    Every operand is one contiguous batch of aligned matrices: with strides, a batch of one and a
    batch of many take different kernels.
    """
    rows, num_kv_heads, num_queries, _ = q.shape
    scores = torch.bmm(_matrices(q) * scale, _matrices(k).mT)  # [rows * Hkv, G * M, L]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores.view(rows, num_kv_heads, num_queries, -1).add_(mask)
    out = torch.bmm(torch.softmax(scores, dim=-1), _matrices(v))[..., : v.shape[-1]]
    return out.to(q.dtype).reshape(rows, num_kv_heads, num_queries, -1)


def _matrices(x: Tensor) -> Tensor:
    """x [rows, Hkv, M, D] as float32 [rows * Hkv, M, D'], D' padded with zeros."""
    missing = -x.shape[-1] % ALIGNED_LEN
    matrices = x.to(torch.float32, memory_format=torch.contiguous_format)
    return (F.pad(matrices, (0, missing)) if missing else matrices).flatten(0, 1)


def _first_key(row: AttentionRow, window: int | None) -> int:
    """The first key that the row's first query sees."""
    return 0 if window is None else max(0, row.kv_len - row.num_tokens + 1 - window)
