"""LoRA adapters of random weights for a base, as the two files that PEFT writes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from motet_adapters import BaseWeights
from safetensors.torch import save

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def random_adapter(
    base: BaseWeights,
    *,
    rank: int,
    seed: int,
    targets: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, bytes]:
    """File name -> bytes. targets None: every linear layer. layers None: all of them."""
    generator = torch.Generator().manual_seed(seed)
    modules = [module for module in base.modules() if _is_wanted(module, targets, layers)]
    tensors = {}
    for module in modules:
        out_features, in_features = base.shape(module)
        for part, shape in (("A", (rank, in_features)), ("B", (out_features, rank))):
            value = torch.randn(shape, generator=generator) * 0.02
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = value.to(dtype)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in modules}),
        "layers_to_transform": None if layers is None else list(layers),
    }
    return {CONFIG_FILE: json.dumps(config).encode(), WEIGHTS_FILE: save(tensors, {"format": "pt"})}


def _is_wanted(module: str, targets: Sequence[str] | None, layers: Sequence[int] | None) -> bool:
    parts = module.split(".")
    if targets is not None and parts[-1] not in targets:
        return False
    return layers is None or any(str(layer) in parts for layer in layers)
