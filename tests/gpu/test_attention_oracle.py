"""Paged attention against torch's own, where that can do it: CUDA, no soft cap, D = Dv.

torch's is the oracle alone, never a way to serve: it has no soft cap and no values of another size
than keys, and promises a row its bits for one split only.
"""

from __future__ import annotations

import pytest
import torch
from motet_kernels import AttentionRow
from motet_kernels.gpu.gpu_ops import GpuOps

from tests.gpu.conftest import DEVICE

pytestmark = pytest.mark.gpu

BLOCK_SIZE = 256  # what every version of flash attention takes as a page


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "size"), [(32, 8, 128), (9, 3, 64)])
def test_mixed_rows(num_heads: int, num_kv_heads: int, size: int, window: int | None) -> None:
    from torch.nn.attention.varlen import varlen_attn

    lens = [(1, 5000), (1, 17), (200, 700), (3, 3), (65, 4000)]
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE).to(torch.bfloat16)

    widths = [-(-kv_len // BLOCK_SIZE) for _, kv_len in lens]
    order = torch.randperm(sum(widths), generator=torch.Generator().manual_seed(1)).tolist()
    rows, start = [], 0
    for (num_tokens, kv_len), width in zip(lens, widths, strict=True):
        blocks = tuple(order.pop() for _ in range(width))
        rows.append(AttentionRow(start, num_tokens, kv_len, blocks))
        start += num_tokens
    k_cache = normal(sum(widths), BLOCK_SIZE, num_kv_heads, size)
    v_cache = normal(sum(widths), BLOCK_SIZE, num_kv_heads, size)
    q = normal(start, num_heads, size)
    ops = GpuOps()
    plan = ops.plan_attention(rows, BLOCK_SIZE, DEVICE)
    out = ops.attention(q, k_cache, v_cache, plan, scale=0.1, window=window, softcap=None)

    table = torch.zeros(len(rows), max(widths), dtype=torch.int32, device=DEVICE)
    for index, row in enumerate(rows):
        table[index, : len(row.blocks)] = torch.tensor(row.blocks, dtype=torch.int32)
    ends = torch.tensor([0, *(row.start + row.num_tokens for row in rows)], dtype=torch.int32)
    expected = varlen_attn(
        q,
        k_cache,
        v_cache,
        ends.to(DEVICE),
        None,
        max(num_tokens for num_tokens, _ in lens),
        max(kv_len for _, kv_len in lens),
        scale=0.1,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=True,
        seqused_k=torch.tensor([kv_len for _, kv_len in lens], dtype=torch.int32, device=DEVICE),
        block_table=table,
        num_splits=1,
    )
    assert isinstance(expected, torch.Tensor)
    difference = (out.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert difference < 1e-2
