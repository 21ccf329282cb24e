"""The attention kernels as they are launched: see kernel_specs.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from motet_kernels.gpu.architectures import ARCHITECTURES
from motet_kernels.gpu.attention_kernels import attention_kernel, merge_kernel
from motet_kernels.gpu.kernel_specs import KernelSpec, Kind
from motet_kernels.gpu.paged_attention import AttentionHeads, compiler_options, merge_constants
from motet_kernels.gpu.store_kv_kernel import BLOCK, store_kv_kernel
from motet_kernels.gpu.tuning import TuningTable

BLOCK_SIZE = 16  # of the cache, as the server sets it

# Key heads, query heads of each, sizes of keys and values: Llama 3, SmolLM2, Phi-2, Gemma, and
# keys wider than values as DeepSeek has them.
HEADS = ((8, 4, 128, 128), (3, 3, 64, 64), (32, 1, 80, 80), (8, 2, 256, 256), (16, 1, 192, 128))

DTYPES = {"bf16": 2, "fp16": 2, "fp32": 4}

# Window and soft cap: given or not.
FORMS = ((False, False), (True, True))


def specs(tuning: TuningTable) -> list[KernelSpec]:
    """Every kernel of attention, for each of its configurations, dtypes and kinds of heads.

    On RDNA a matrix instruction wants its operands twice in the registers, so that heads wider
    than 128 and float32 spill there. They run, and are right; they are not among what is gated.
    """
    architecture = ARCHITECTURES[tuning.architecture]
    is_rdna = architecture.backend == "hip" and architecture.lanes == 32
    found = []
    for dtype, itemsize in DTYPES.items():
        for each in HEADS:
            heads = AttentionHeads(*each, itemsize)
            found.append(_store_kv(heads, dtype))
            if not is_rdna or (itemsize == 2 and heads.head_size <= 128):
                found += _attention(heads, dtype, tuning)
    return found


def _attention(heads: AttentionHeads, dtype: str, tuning: TuningTable) -> Iterator[KernelSpec]:
    backend = ARCHITECTURES[tuning.architecture].backend
    config = tuning.attention(heads.head_size)
    constants, blocks = heads.constants(BLOCK_SIZE), heads.blocks(config)
    warps, stages = blocks.pop("num_warps"), blocks.pop("num_stages")
    pointers = dict.fromkeys(("q", "k_cache", "v_cache", "out"), f"*{dtype}")
    pointers |= {"partials": "*fp32", "plan": "*i32"}
    numbers = {"q_token_stride": "i32", "q_head_stride": "i32"}
    # float32 products are exact, so they cannot use tensor cores
    kind: Kind = "attention" if dtype == "fp32" else "tile"
    sizes = f"{_shape(heads, dtype)} {blocks['BLOCK_M']}x{blocks['BLOCK_N']}"
    for windowed, capped in FORMS:
        absent: dict[str, Any] = {} if capped else {"softcap": None}
        absent |= {} if windowed else {"window": None, "window_split": None}
        present = {"scale": "fp32"} | ({"softcap": "fp32"} if capped else {})
        window = {"window": "i32", "window_split": "i32"} if windowed else {}
        yield KernelSpec(
            f"attention {sizes}" + " windowed" * windowed,
            attention_kernel,
            kind,
            pointers | numbers | present | window,
            constants | blocks | absent,
            frozenset(pointers | numbers) | ({"window_split"} if windowed else set()),
            warps,
            stages,
            options=compiler_options(backend),
        )
        if not capped:
            tables = {"out": f"*{dtype}", "partials": "*fp32", "plan": "*i32"}
            yield KernelSpec(
                f"attention_merge {sizes}",
                merge_kernel,
                "attention",
                tables,
                merge_constants(constants, blocks) | {"window": None, "window_split": None},
                frozenset(tables),
                4,
                1,
            )


def _store_kv(heads: AttentionHeads, dtype: str) -> KernelSpec:
    pointers = dict.fromkeys(("k", "v", "k_cache", "v_cache"), f"*{dtype}")
    strides = [f"{name}_{axis}_stride" for name in "kv" for axis in ("token", "head")]
    arguments = pointers | {"slots": "*i64"} | dict.fromkeys(strides, "i32")
    return KernelSpec(
        f"store_kv {_shape(heads, dtype)}",
        store_kv_kernel,
        "copy",
        arguments,
        {
            "NUM_HEADS": heads.num_kv_heads,
            "HEAD_SIZE": heads.head_size,
            "VALUE_SIZE": heads.value_size,
            "BLOCK": BLOCK,
        },
        frozenset(arguments),
        4,
        1,
    )


def _shape(heads: AttentionHeads, dtype: str) -> str:
    query_heads = heads.num_kv_heads * heads.group
    return f"{dtype} {query_heads}/{heads.num_kv_heads}x{heads.head_size},{heads.value_size}"
