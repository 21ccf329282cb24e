"""Adapters on experts, as they were saved before transformers 5 stacked the experts' weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from tests.support.adapter_files import CONFIG_FILE, PREFIX, WEIGHTS_FILE

QWEN = ("mlp", ("gate_proj", "up_proj", "down_proj"))
MIXTRAL = ("block_sparse_moe", ("w1", "w3", "w2"))


def write_unstacked(
    model: PreTrainedModel, directory: Path, form: tuple[str, tuple[str, ...]], targets: object
) -> None:
    """Random factors of rank 3 on every expert, every router and every q_proj of `model`."""
    random, (place, names), rank = torch.Generator().manual_seed(3), form, 3
    tensors = {}

    def add(path: str, rows: int, columns: int) -> None:
        a, b = (
            torch.randn(rank, columns, generator=random),
            torch.randn(rows, rank, generator=random),
        )
        tensors[f"{PREFIX}{path}.lora_A.weight"] = a * 0.2
        tensors[f"{PREFIX}{path}.lora_B.weight"] = b * 0.2

    for number, layer in enumerate(model.model.layers):
        path, experts = f"model.layers.{number}", layer.mlp.experts
        add(f"{path}.self_attn.q_proj", *layer.self_attn.q_proj.weight.shape)
        add(f"{path}.{place}.gate", *layer.mlp.gate.weight.shape)
        num_experts, hidden, inner = experts.down_proj.shape
        for expert in range(num_experts):
            for name in names[:2]:
                add(f"{path}.{place}.experts.{expert}.{name}", inner, hidden)
            add(f"{path}.{place}.experts.{expert}.{names[2]}", hidden, inner)
    directory.mkdir(parents=True)
    save_file(tensors, directory / WEIGHTS_FILE)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "task_type": "CAUSAL_LM"}
    (directory / CONFIG_FILE).write_text(json.dumps(config | {"target_modules": targets}))
