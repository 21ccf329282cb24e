"""A base model that is nothing but weights, for tests of what is made against one."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class RandomBase:
    """Llama's module names over random float32 weights. Implements motet_adapters.BaseWeights."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = dict(weights)
        whole = hashlib.sha256()
        for module, weight in self._weights.items():
            whole.update(module.encode())
            whole.update(weight.contiguous().numpy().tobytes())
        self._fingerprint = whole.hexdigest()

    @classmethod
    def llama(
        cls, *, layers: int = 2, hidden: int = 32, kv: int = 16, ffn: int = 48, seed: int = 0
    ) -> "RandomBase":
        random = torch.Generator().manual_seed(seed)
        shapes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
        }
        return cls(
            {
                f"model.layers.{layer}.{name}": torch.randn(shape, generator=random) * 0.2
                for layer in range(layers)
                for name, shape in shapes.items()
            }
        )

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def modules(self) -> Sequence[str]:
        return tuple(self._weights)

    def shape(self, module: str) -> tuple[int, int]:
        out_features, in_features = self._weights[module].shape
        return out_features, in_features

    def weight(self, module: str) -> Tensor:
        return self._weights[module]
