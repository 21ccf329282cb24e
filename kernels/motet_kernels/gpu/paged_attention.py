"""Launching paged attention: block sizes of a shape, and the memory for parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from motet_kernels.gpu.attention_kernels import attention_kernel, merge_kernel
from motet_kernels.gpu.attention_plan import MAX_SPLITS, GpuAttentionPlan, split_length
from motet_kernels.gpu.tuning import AttentionConfig

# tl.dot takes no smaller side.
LEAST_SIDE = 16

# Values from this size on, and float32, leave a program registers for the fewest queries only: it
# holds two accumulators of them, that of a split and that of all splits so far.
WIDE_VALUES = 256

# Left to itself, NVIDIA's assembler spills a few registers for one more program on a
# multiprocessor.
MAX_REGISTERS = 240

# Bytes of keys and values of one block: with two stages they have to fit in shared memory.
MAX_BLOCK_BYTES = 2**15


class AttentionHeads(NamedTuple):
    """What one layer's tensors say of its heads."""

    num_kv_heads: int
    group: int  # query heads of a key head
    head_size: int  # D
    value_size: int  # Dv
    itemsize: int  # bytes of an element of the cache

    @classmethod
    def of(cls, q: Tensor, k_cache: Tensor, v_cache: Tensor) -> AttentionHeads:
        num_kv_heads, head_size = k_cache.shape[2:]
        return cls(
            num_kv_heads,
            q.shape[1] // num_kv_heads,
            head_size,
            v_cache.shape[3],
            k_cache.element_size(),
        )

    @property
    def partial_len(self) -> int:
        """Floats of a part: the weighted sum, the largest score, the sum; whole 16 bytes."""
        return -(-(self.value_size + 2) // 4) * 4

    def constants(self, block_size: int) -> dict[str, int]:
        """attention_kernel's constants that are the layer's, not the tuning's."""
        return {
            "NUM_KV_HEADS": self.num_kv_heads,
            "GROUP": self.group,
            "HEAD_SIZE": self.head_size,
            "VALUE_SIZE": self.value_size,
            "BLOCK_SIZE": block_size,
            "MAX_SPLITS": MAX_SPLITS,
            "PARTIAL_LEN": self.partial_len,
        }

    def blocks(self, config: AttentionConfig) -> dict[str, int]:
        """attention_kernel's block sizes and warps: the tuning's where the heads leave room.

        A function of the heads and the GPU alone. The rows and warps of a tile decide how a sum
        over keys is spread over threads, so they too are the same for every step.
        """
        block_d = max(LEAST_SIDE, triton.next_power_of_2(self.head_size))
        block_v = max(LEAST_SIDE, triton.next_power_of_2(self.value_size))
        block_m, block_n = config.block_queries, config.block_keys
        if block_v >= WIDE_VALUES:
            block_m = LEAST_SIDE
        if self.itemsize > 2:
            block_m = block_n = LEAST_SIDE
        while (
            block_n > LEAST_SIDE and block_n * (block_d + block_v) * self.itemsize > MAX_BLOCK_BYTES
        ):
            block_n //= 2
        return {
            "BLOCK_M": max(block_m, LEAST_SIDE, triton.next_power_of_2(self.group)),
            "BLOCK_N": block_n,
            "BLOCK_D": block_d,
            "BLOCK_V": block_v,
            "num_warps": config.num_warps * (2 if block_v >= WIDE_VALUES else 1),
            "num_stages": config.num_stages,
        }


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: GpuAttentionPlan,
    config: AttentionConfig,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`Ops.attention`. config: one for every step, of the plan's split_len."""
    heads = AttentionHeads.of(q, k_cache, v_cache)
    if q.stride(2) != 1:
        q = q.contiguous()
    num_tokens, num_heads, _ = q.shape
    out = q.new_empty(num_tokens, num_heads, heads.value_size)
    partials = torch.empty(
        (plan.num_partial_rows, num_heads, MAX_SPLITS, heads.partial_len),
        dtype=torch.float32,
        device=q.device,
    )
    constants, blocks = heads.constants(plan.block_size), heads.blocks(config)
    window_split = None if window is None else split_length(window, plan.split_len)
    num_splits = plan.num_splits(window)
    num_tiles = num_tokens // (blocks["BLOCK_M"] // heads.group) + plan.num_rows
    attention_kernel[(num_tiles, heads.num_kv_heads, num_splits)](
        q,
        k_cache,
        v_cache,
        out,
        partials,
        plan.table,
        q.stride(0),
        q.stride(1),
        scale,
        softcap,
        window,
        window_split,
        **constants,
        **blocks,
        **compiler_options("cuda" if torch.version.hip is None else "hip"),
    )
    if num_splits > 1:
        merge_kernel[(num_tokens + plan.num_rows, heads.num_kv_heads)](
            out,
            partials,
            plan.table,
            window,
            window_split,
            **merge_constants(constants, blocks),
        )
    return out


def compiler_options(backend: str) -> dict[str, int]:
    """What attention_kernel asks of Triton's backend ("cuda", "hip") besides warps and stages."""
    return {"maxnreg": MAX_REGISTERS} if backend == "cuda" else {}


def merge_constants(constants: dict[str, int], blocks: dict[str, int]) -> dict[str, Any]:
    """merge_kernel's constants, from attention_kernel's."""
    names = ("NUM_KV_HEADS", "GROUP", "VALUE_SIZE", "MAX_SPLITS", "PARTIAL_LEN")
    return {
        **{name: constants[name] for name in names},
        "BLOCK_G": triton.next_power_of_2(constants["GROUP"]),
        "BLOCK_V": blocks["BLOCK_V"],
    }
