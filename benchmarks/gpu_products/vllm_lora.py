"""vLLM's own shrink and expand for a mixed batch, where vllm is installed beside this torch.

Called as vLLM 0.32's PunicaWrapperGPU calls them: ranks padded to one, sums of split K by atomics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

try:
    from vllm.lora.ops.triton_ops import LoRAKernelMeta, lora_expand, lora_shrink
except ImportError as error:
    _why_not: str | None = f"vllm cannot be imported here ({error}); pip install vllm beside torch"
else:
    _why_not = None


def why_not() -> str | None:
    """What keeps vLLM's kernels from being timed; None: nothing does."""
    return _why_not


def shrink_and_expand(
    x: Tensor, n: int, rank: int, num_adapters: int, adapters: Sequence[int]
) -> Callable[[], object] | None:
    """A call that adds every row's adapter, of `adapters` from 0, to y [T, n]; None without vllm.

    Built once: a step prepares its metadata once for all linears, here as there.
    """
    if _why_not is not None:
        return None
    rows, k = x.shape
    options = {"dtype": x.dtype, "device": x.device}
    a = [torch.randn(num_adapters, 1, rank, k, **options)]
    b = [torch.randn(num_adapters, 1, n, rank, **options)]
    y = torch.randn(rows, n, **options)
    u = torch.empty(1, rows, rank, dtype=torch.float32, device=x.device)
    meta = LoRAKernelMeta.make(num_adapters, rows, x.device)
    meta.prepare_tensors(torch.tensor(adapters, dtype=torch.int32, device=x.device))
    arguments = meta.meta_args(rows, False)

    def call() -> None:
        lora_shrink(x, a, u, *arguments, 1.0)
        lora_expand(u, b, y, *arguments, offset_start=0, add_inputs=True)

    return call
