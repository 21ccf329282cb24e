"""Triton: paged attention for any mix of row lengths, its keys split by position and merged.

One kernel serves prompts and single tokens. A query at position p sees n = min(p + 1, window)
keys. They are cut at the multiples of a split length that is a function of n alone
(`attention_plan.py`); every split is summed from zero, block of keys by block, and the splits are
merged in order. So a query's bits follow from its own position and keys: not from the queries
that share its tile, nor from whether its splits are summed in one program or in many, because
`_merged` is the same arithmetic, without freedom for the compiler, in both kernels.

A block of keys that a query does not see changes nothing of it: its maximum stays, the factor is
exp2(0) = 1, and zeros are added.

Under TRITON_INTERPRET=1 the kernels are right in float32 and float16; bf16 arithmetic is wrong
there, in the interpreter, without an error.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import triton
import triton.language as tl

from motet_kernels.gpu.attention_plan import HEADER_LEN, ROW_COLUMNS

_HEADER_LEN = tl.constexpr(HEADER_LEN)
_ROW_COLUMNS = tl.constexpr(ROW_COLUMNS)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _row_of(plan, tile, TILE_TOKENS: tl.constexpr):
    """The row whose tiles hold `tile`, and which of its tiles that is.

    Row r's tiles begin at start // TILE_TOKENS + r: at least as many as it needs, without a table
    of tiles. (The numbering is vLLM's, triton_unified_attention.py.)
    """
    low = 0
    high = tl.load(plan)
    while high - low > 1:
        middle = (low + high) // 2
        start = tl.load(plan + _HEADER_LEN + middle * _ROW_COLUMNS)
        is_after = start // TILE_TOKENS + middle > tile
        high = tl.where(is_after, middle, high)
        low = tl.where(is_after, low, middle)
    row = plan + _HEADER_LEN + low * _ROW_COLUMNS
    return row, tile - tl.load(row) // TILE_TOKENS - low


@triton.jit
def _merged(top, total, acc, split_top, split_total, split_acc):
    """Two parts of a softmax-weighted sum as one: largest score, sum of weights, weighted sum."""
    new_top = tl.maximum(top, split_top)
    safe = tl.where(new_top == -float("inf"), 0.0, new_top)
    old, new = tl.exp2(top - safe), tl.exp2(split_top - safe)
    # fma by name: which of the products a compiler fuses would otherwise be its choice
    total = tl.fma(total, old, split_total * new)
    acc = tl.fma(acc, old[:, None].broadcast_to(acc.shape), split_acc * new[:, None])
    return new_top, total, acc


@triton.jit
def _scores(q, k, scale, softcap):
    """[BLOCK_M, BLOCK_N] float32 scores, times log2(e)."""
    scores = tl.dot(q, k, input_precision="ieee")
    if softcap is None:
        scores *= scale * _LOG2_E
    else:
        # tanh(s) = 1 - 2 / (exp(2 s) + 1), right at both infinities
        power = tl.exp2(scores * (2 * _LOG2_E * scale / softcap))
        scores = (1.0 - 2.0 / (power + 1.0)) * (softcap * _LOG2_E)
    return scores


@triton.jit
def _split_sum(
    q_tile, k_cache, v_cache, blocks, begin, end, kv_head, position, scale, softcap, window,
    NUM_KV_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Largest score, sum of weights and weighted sum of values over the keys [begin, end).

    begin is a multiple of BLOCK_N; nothing from `end` on is read.
    """
    d, dv, n = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_N)
    top = tl.full((BLOCK_M,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_V), dtype=tl.float32)
    for key in range(begin, end, BLOCK_N):
        p = key + n
        block = tl.load(blocks + p // BLOCK_SIZE, mask=p < end, other=0).to(tl.int64)
        place = (block * BLOCK_SIZE + p % BLOCK_SIZE) * NUM_KV_HEADS + kv_head
        k = tl.load(
            k_cache + place[None, :] * HEAD_SIZE + d[:, None],
            mask=(p < end)[None, :] & (d < HEAD_SIZE)[:, None],
            other=0.0,
        )
        v = tl.load(
            v_cache + place[:, None] * VALUE_SIZE + dv[None, :],
            mask=(p < end)[:, None] & (dv < VALUE_SIZE)[None, :],
            other=0.0,
        )
        is_seen = p[None, :] <= position[:, None]
        if window is not None:
            is_seen &= p[None, :] > position[:, None] - window
        scores = tl.where(is_seen, _scores(q_tile, k, scale, softcap), -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(new_top == -float("inf"), 0.0, new_top)
        weights = tl.exp2(scores - safe[:, None])
        factor = tl.exp2(top - safe)
        total = total * factor + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * factor[:, None], input_precision="ieee")
        top = new_top
    return top, total, acc


@triton.jit
def attention_kernel(
    q,  # [T, Hq, D], the last dimension contiguous
    k_cache,  # [P, BLOCK_SIZE, Hkv, D]
    v_cache,  # [P, BLOCK_SIZE, Hkv, Dv]
    out,  # [T, Hq, Dv]
    partials,  # float32 [partial rows, Hq, MAX_SPLITS, PARTIAL_LEN]: weighted sum, largest, total
    plan,  # int32 [n], the table of attention_plan.py
    q_token_stride,
    q_head_stride,
    scale,
    softcap,  # None: none
    window,  # None: none
    window_split,  # the split length of `window` keys; None without a window
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    PARTIAL_LEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """out[t, h] = sum_p softmax_p(cap(scale q[t, h] . k[p])) v[p]. Grid (tiles, Hkv, splits).

    A tile is BLOCK_M // GROUP tokens of one row with all query heads of one key head. In a row
    that has partial rows a program sums one split; in any other, the first one sums them all.
    """
    tile_tokens: tl.constexpr = BLOCK_M // GROUP
    row, tile = _row_of(plan, tl.program_id(0), tile_tokens)
    count = tl.minimum(tl.load(row + 1) - tile * tile_tokens, tile_tokens)
    if count <= 0:
        return
    first = tl.load(row + 2) + tile * tile_tokens  # position of the tile's first query
    last = first + count - 1
    blocks = plan + tl.load(row + 3)
    length = tl.load(row + 4)
    partial_row = tl.load(row + 5)
    first_key = 0
    if window is not None:
        length = tl.minimum(length, window_split)
        first_key = tl.maximum(first - window + 1, 0)
    split, stop = first_key // length + tl.program_id(2), last // length + 1
    if partial_row >= 0:
        stop = tl.minimum(stop, split + 1)
    if (split >= stop) | ((partial_row < 0) & (tl.program_id(2) > 0)):
        return
    m, d, dv = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    is_query = m // GROUP < count
    position = first + m // GROUP
    token = (tl.load(row) + tile * tile_tokens + m // GROUP).to(tl.int64)
    head = tl.program_id(1) * GROUP + m % GROUP
    q_tile = tl.load(
        q + (token * q_token_stride + head * q_head_stride)[:, None] + d[None, :],
        mask=is_query[:, None] & (d < HEAD_SIZE)[None, :],
        other=0.0,
    )
    top = tl.full((BLOCK_M,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_V), dtype=tl.float32)
    for each in range(split, stop):
        s_top, s_total, s_acc = _split_sum(
            q_tile, k_cache, v_cache, blocks,
            tl.maximum(each * length, first_key // BLOCK_N * BLOCK_N),
            tl.minimum((each + 1) * length, last + 1),
            tl.program_id(1), position, scale, softcap, window, NUM_KV_HEADS, HEAD_SIZE,
            VALUE_SIZE, BLOCK_SIZE, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_V,
        )  # fmt: skip
        top, total, acc = _merged(top, total, acc, s_top, s_total, s_acc)
    # a query whose keys lie in one split needs no merging
    own_first = position * 0
    if window is not None:
        own_first = tl.maximum(position - window + 1, 0) // length
    own_last = position // length
    is_own = is_query & (split >= own_first) & (split <= own_last)
    is_done = tl.where(partial_row < 0, is_query, is_own & (own_first == own_last))
    is_part = is_own & ~is_done
    is_value = (dv < VALUE_SIZE)[None, :]
    place = (token * (NUM_KV_HEADS * GROUP) + head) * VALUE_SIZE
    result = acc / tl.where(total == 0.0, 1.0, total)[:, None]  # zero: no query, and not stored
    tl.store(out + place[:, None] + dv[None, :], result, mask=is_done[:, None] & is_value)
    place = (partial_row + position - tl.load(row + 2)).to(tl.int64) * (NUM_KV_HEADS * GROUP) + head
    part = partials + (place * MAX_SPLITS + split % MAX_SPLITS) * PARTIAL_LEN
    tl.store(part[:, None] + dv[None, :], acc, mask=is_part[:, None] & is_value)
    tl.store(part + VALUE_SIZE, top, mask=is_part)
    tl.store(part + VALUE_SIZE + 1, total, mask=is_part)


@triton.jit
def merge_kernel(
    out,  # [T, Hq, Dv]
    partials,  # float32 [partial rows, Hq, MAX_SPLITS, PARTIAL_LEN]
    plan,  # int32 [n], the table of attention_plan.py
    window,  # None: none
    window_split,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    PARTIAL_LEN: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """out[t, h] = (sum_s e_s acc_s) / (sum_s e_s total_s), e_s = exp(top_s - largest top), over
    the splits s that attention_kernel left of a query, in order. Grid (tiles of one token, Hkv).
    """
    row, tile = _row_of(plan, tl.program_id(0), 1)
    partial_row = tl.load(row + 5)
    if (partial_row < 0) | (tile >= tl.load(row + 1)):
        return
    position = tl.load(row + 2) + tile
    length = tl.load(row + 4)
    first_split = 0
    if window is not None:
        length = tl.minimum(length, window_split)
        first_split = tl.maximum(position - window + 1, 0) // length
    last_split = position // length
    if first_split == last_split:
        return
    g, dv = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_V)
    head = tl.program_id(1) * GROUP + g
    mask = (g < GROUP)[:, None] & (dv < VALUE_SIZE)[None, :]
    part = ((partial_row + tile).to(tl.int64) * (NUM_KV_HEADS * GROUP) + head) * MAX_SPLITS
    top = tl.full((BLOCK_G,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_G,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_G, BLOCK_V), dtype=tl.float32)
    for split in range(first_split, last_split + 1):
        entry = partials + (part + split % MAX_SPLITS) * PARTIAL_LEN
        s_acc = tl.load(entry[:, None] + dv[None, :], mask=mask, other=0.0)
        s_top = tl.load(entry + VALUE_SIZE, mask=g < GROUP, other=0.0)
        s_total = tl.load(entry + VALUE_SIZE + 1, mask=g < GROUP, other=0.0)
        top, total, acc = _merged(top, total, acc, s_top, s_total, s_acc)
    token = (tl.load(row) + tile).to(tl.int64)
    tl.store(
        out + (token * (NUM_KV_HEADS * GROUP) + head)[:, None] * VALUE_SIZE + dv[None, :],
        acc / tl.where(total == 0.0, 1.0, total)[:, None],
        mask=mask,
    )
