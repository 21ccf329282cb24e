"""The sampling kernel as it is launched: see kernel_specs.py."""

from __future__ import annotations

from motet_kernels.gpu.kernel_specs import KernelSpec
from motet_kernels.gpu.sampling_kernel import BLOCK, NUM_WARPS, choose_kernel
from motet_kernels.gpu.tuning import TuningTable


def specs(_tuning: TuningTable) -> list[KernelSpec]:
    """The kernel for each dtype of logits; no table tunes it."""
    return [
        KernelSpec(
            f"choose {dtype}",
            choose_kernel,
            "copy",  # it reads logits, and multiplies no matrices
            {
                "logits": f"*{dtype}",
                "draws": "*fp64",
                "chosen": "*i64",
                "vocab": "i32",
                "row_stride": "i32",
            },
            {"BLOCK": BLOCK},
            frozenset({"logits", "draws", "chosen", "vocab", "row_stride"}),
            NUM_WARPS,
            1,
        )
        for dtype in ("bf16", "fp16", "fp32")
    ]
