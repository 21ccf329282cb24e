"""The results of `benchmarks/kernels.py` as Markdown, one table each, from its JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def peaks(document: dict[str, Any]) -> str:
    found = document["peaks"]
    return (
        f"Reading {found['read_bytes_per_s'] / 1e9:.1f} GB/s; arithmetic "
        f"{found['flops_per_s'] / 1e9:.0f} GFLOP/s (registers alone, {found['instruction']}: "
        f"{found['dot_flops_per_s'] / 1e9:.0f}; torch's bf16 product of squares: "
        f"{found['torch_flops_per_s'] / 1e9:.0f})."
    )


def linears(document: dict[str, Any]) -> str:
    names = ("N x K", "rows", "us", "of read", "of roof", "x torch", "at most", "x bnb", "at most")
    parts = []
    for model in dict.fromkeys(one["model"] for one in document["linears"]):
        rows = [
            _linear(one, document["peaks"]) for one in document["linears"] if one["model"] == model
        ]
        parts.append(f"{model}\n\n{_table(names, rows)}")
    return "\n\n".join(parts)


def _linear(one: dict[str, Any], peaks: dict[str, Any]) -> Sequence[str]:
    ours = one["ours_s"]
    read = one["num_bytes"] / peaks["read_bytes_per_s"]
    roof = max(read, one["flops"] / peaks["flops_per_s"])  # the least this machine can need
    return (
        f"{one['n']} x {one['k']}",
        f"{one['rows']}",
        f"{ours * 1e6:.1f}",
        f"{read / ours:.0%}",
        f"{roof / ours:.0%}",
        f"{one['torch_s'] / ours:.2f}",
        f"{one['torch_s'] / roof:.2f}",
        f"{one['bitsandbytes_s'] / ours:.1f}",
        f"{one['bitsandbytes_s'] / roof:.1f}",
    )


def adapters(document: dict[str, Any]) -> str:
    one = document["adapters"]
    added = one["lora_s"] - one["base_s"]
    added_dora = one["dora_s"] - one["base_s"]
    by_torch = one["torch_lora_s"] - one["torch_base_s"]
    rows = (
        ("the base's products alone", one["base_s"], ""),
        ("with 8 LoRA adapters", one["lora_s"], f"{one['lora_s'] / one['base_s']:.2f} x the base"),
        ("with 8 DoRA adapters", one["dora_s"], f"{one['dora_s'] / one['lora_s']:.2f} x LoRA"),
        ("LoRA adds", added, f"{added / one['read_s']:.2f} x reading the adapters' bytes"),
        ("DoRA adds", added_dora, f"{added_dora / added:.2f} x what LoRA adds"),
        ("LoRA adds, torch implementation", by_torch, f"{by_torch / added:.1f} x ours"),
        ("reading the adapters' bytes", one["read_s"], ""),
    )
    return _table(
        ("a layer, 32 rows", "us", "ratio"),
        [(name, f"{seconds * 1e6:.0f}", ratio) for name, seconds, ratio in rows],
    )


def promise(document: dict[str, Any]) -> str:
    names = ("rows", "torch, free, us", "torch, padded", "x free", "dense_linear", "x free")
    rows = []
    for one in document["promise"]:
        free, padded, ours = one["torch_s"], one["torch_padded_s"], one["ours_s"]
        times = [f"{seconds * 1e6:.0f}" for seconds in (free, padded, ours)]
        ratios = [f"{padded / free:.2f}", f"{ours / free:.2f}"]
        rows.append((f"{one['rows']}", times[0], times[1], ratios[0], times[2], ratios[1]))
    return _table(names, rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---:"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
