"""LoRA adapters of random weights, for loads that only cost time."""

import json
from collections.abc import Mapping

import torch
from motet_adapters import BaseWeights
from safetensors.torch import save

from motet.cli.adapter_files import CONFIG, WEIGHTS

_SCALE = 0.02  # of A and B: large enough to change answers, small enough to keep them finite


def random_lora(base: BaseWeights, rank: int, seed: int) -> Mapping[str, bytes]:
    """The two files of a LoRA adapter, in bf16, on every linear of the base that can have one."""
    generator = torch.Generator().manual_seed(seed)

    def noise(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * _SCALE).bfloat16()

    tensors = {}
    for module in base.modules():
        out_features, in_features = base.shape(module)
        tensors[f"base_model.model.{module}.lora_A.weight"] = noise(rank, in_features)
        tensors[f"base_model.model.{module}.lora_B.weight"] = noise(out_features, rank)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(base.modules()),
        "bias": "none",
    }
    return {CONFIG: json.dumps(config).encode(), WEIGHTS: save(tensors, {"format": "pt"})}
