"""Paged attention in C++."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from motet_kernels.attention_layout import AttentionRow
from motet_kernels.cpu.native_abi import AttentionCall, StoreCall
from motet_kernels.cpu.native_library import NativeLibrary
from motet_kernels.ops import AttentionPlan
from motet_kernels.torch_attention import TorchAttentionPlan, plan_attention

_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class NativeAttentionPlan(AttentionPlan):
    """rows: int64 [R, 4], start, num_tokens, kv_len and where the row's blocks begin.
    blocks: int64, the rows' block tables behind one another.
    torch: the same step for dtypes the kernels do not read; it costs nothing until it is used.
    """

    rows: Tensor
    blocks: Tensor
    block_size: int
    longest: int  # the largest kv_len
    last_block: int
    torch: TorchAttentionPlan


def plan(
    rows: Sequence[AttentionRow], block_size: int, device: torch.device
) -> NativeAttentionPlan:
    """`Ops.plan_attention` for the native path."""
    fallback = plan_attention(rows, block_size, device)
    blocks: list[int] = []
    columns = []
    for row in rows:
        columns.append((row.start, row.num_tokens, row.kv_len, len(blocks)))
        blocks.extend(row.blocks)
    if blocks and min(blocks) < 0:
        raise ValueError(f"block numbers start at 0, got {min(blocks)}")
    return NativeAttentionPlan(
        num_tokens=fallback.num_tokens,
        rows=torch.tensor(columns, dtype=torch.int64),
        blocks=torch.tensor(blocks, dtype=torch.int64),
        block_size=block_size,
        longest=max((row.kv_len for row in rows), default=0),
        last_block=max(blocks, default=-1),
        torch=fallback,
    )


def reads(*tensors: Tensor) -> bool:
    """Whether the kernels read these tensors: one dtype that they know, last dimension dense."""
    dtype = tensors[0].dtype
    return dtype in _DTYPES and all(
        tensor.dtype == dtype and tensor.stride(-1) == 1 for tensor in tensors
    )


def store_kv(
    library: NativeLibrary, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor
) -> None:
    """`Ops.store_kv` for the native path, for tensors that `reads` accepts."""
    num_tokens, num_heads, key_size = k.shape
    num_places = k_cache.shape[0] * k_cache.shape[1]
    size = k.element_size()
    k_stride, v_stride = k.stride(), v.stride()
    call = StoreCall(
        *(k.data_ptr(), v.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr()),
        *(slots.data_ptr(), num_tokens, num_heads, num_places),
        *(k_stride[0] * size, k_stride[1] * size, v_stride[0] * size, v_stride[1] * size),
        *(key_size * size, v.shape[2] * size),
    )
    if library.store_kv(ctypes.addressof(call)):
        raise IndexError(f"a slot lies outside the cache of {num_places} places")


def attention(
    library: NativeLibrary,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: NativeAttentionPlan,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`Ops.attention` for the native path, for tensors that `reads` accepts."""
    num_blocks, block_size, num_kv_heads, key_size = k_cache.shape
    num_tokens, num_heads, _ = q.shape
    if num_tokens != plan.num_tokens or block_size != plan.block_size:
        raise ValueError(
            f"the plan is for {plan.num_tokens} tokens and blocks of {plan.block_size}, "
            f"got {num_tokens} tokens and blocks of {block_size}"
        )
    if plan.last_block >= num_blocks:
        raise ValueError(f"block {plan.last_block} is out of range; there are {num_blocks} blocks")
    value_size = v_cache.shape[3]
    out = torch.empty(num_tokens, num_heads, value_size, dtype=q.dtype)
    call = AttentionCall(
        *(q.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(), out.data_ptr()),
        *(plan.rows.data_ptr(), plan.blocks.data_ptr()),
        *(plan.rows.shape[0], num_tokens, plan.longest, q.stride(0), q.stride(1)),
        *(block_size, num_heads, num_kv_heads, key_size, value_size),
        *(window or 0, scale, softcap or 0.0),
        *(q.dtype == torch.bfloat16, torch.get_num_threads()),
    )
    if library.attention(ctypes.addressof(call)):
        raise MemoryError(f"no memory for attention over {plan.longest} keys")
    return out
