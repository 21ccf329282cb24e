"""Triton: a step's keys and values into the paged cache, one launch for both."""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements of a token that one program copies


@triton.jit
def _copy_heads(source, cache, slot, head_stride, NUM_HEADS, SIZE: tl.constexpr, BLOCK):
    """cache[slot] = source, both [NUM_HEADS, SIZE]; elements of this program's block."""
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = i < NUM_HEADS * SIZE
    values = tl.load(source + (i // SIZE) * head_stride + i % SIZE, mask=mask)
    tl.store(cache + slot * (NUM_HEADS * SIZE) + i, values, mask=mask)


@triton.jit
def store_kv_kernel(
    k,  # [T, Hkv, D], the last dimension contiguous
    v,  # [T, Hkv, Dv], likewise
    k_cache,  # [P * block_size, Hkv, D]
    v_cache,  # [P * block_size, Hkv, Dv]
    slots,  # int64 [T]
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """k_cache[slots[t]] = k[t], v_cache[slots[t]] = v[t]. Grid (T, blocks of a token, 2)."""
    t = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + t)
    if tl.program_id(2) == 0:
        _copy_heads(
            k + t * k_token_stride, k_cache, slot, k_head_stride, NUM_HEADS, HEAD_SIZE, BLOCK
        )
    else:
        _copy_heads(
            v + t * v_token_stride, v_cache, slot, v_head_stride, NUM_HEADS, VALUE_SIZE, BLOCK
        )


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """`Ops.store_kv`."""
    num_tokens, num_heads, head_size = k.shape
    k, v = (states if states.stride(2) == 1 else states.contiguous() for states in (k, v))
    widest = num_heads * max(head_size, v.shape[2])
    store_kv_kernel[(num_tokens, triton.cdiv(widest, BLOCK), 2)](
        k,
        v,
        k_cache,
        v_cache,
        slots,
        *k.stride()[:2],
        *v.stride()[:2],
        NUM_HEADS=num_heads,
        HEAD_SIZE=head_size,
        VALUE_SIZE=v.shape[2],
        BLOCK=BLOCK,
    )
