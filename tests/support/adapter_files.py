"""Adapters as PEFT writes them, made by hand: a config and tensors, then the two files' bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from motet_adapters import Adapter, AdapterStore, BaseWeights
from safetensors.torch import save
from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass
class AdapterFiles:
    """Mutable on purpose: tests bend a valid adapter and upload the result."""

    config: dict[str, object]
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=lambda: {"format": "pt"})

    @property
    def config_bytes(self) -> bytes:
        return json.dumps(self.config, indent=2).encode()

    @property
    def weights_bytes(self) -> bytes:
        return save(self.tensors, self.metadata)

    def put(self, store: AdapterStore, tenant: str = "acme", name: str = "one") -> Adapter:
        return put_bytes(store, self.config_bytes, self.weights_bytes, tenant, name)


def put_bytes(
    store: AdapterStore,
    config: bytes,
    weights: bytes,
    tenant: str = "acme",
    name: str = "one",
    **how: Any,
) -> Adapter:
    """`how`: what `AdapterStore.put` takes besides."""
    with store.stage() as staging:
        staging.write(CONFIG_FILE, config)
        for start in range(0, len(weights), 1000):
            staging.write(WEIGHTS_FILE, weights[start : start + 1000])
        return store.put(tenant, name, staging, **how)


def random_adapter(
    base: BaseWeights,
    *,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    rank: int = 4,
    alpha: float = 8,
    dora: bool = False,
    rslora: bool = False,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
    config: Mapping[str, object] | None = None,
) -> AdapterFiles:
    """Random non-zero weights for every module of `base` that ends in one of `targets`."""
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for module in base.modules():
        if not module.endswith(tuple(f".{target}" for target in targets)):
            continue
        out_features, in_features = base.shape(module)
        a = torch.randn(rank, in_features, generator=random)
        b = torch.randn(out_features, rank, generator=random)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = (a * 0.1).to(dtype)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = (b * 0.1).to(dtype)
        if dora:
            magnitude = torch.rand(out_features, generator=random) + 0.5
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = magnitude.to(dtype)
    values: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": list(targets),
        "bias": "none",
        "use_dora": dora,
        "use_rslora": rslora,
        **(config or {}),
    }
    return AdapterFiles(values, tensors)
