"""A base model that is nothing but weights, for tests of what is made against one."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_ALONE = ("o_proj", "down_proj")  # the linears whose input no other one is fed


class RandomBase:
    """Llama's module names over random float32 weights. Implements motet_adapters.BaseWeights.

    weights: of the linears. dense: of the embedding, the norms and the head, by path; a head that
    is not among them is tied. originals: of the linears before they were quantised, if known.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        *,
        biases: Mapping[str, Tensor] | None = None,
        dense: Mapping[str, Tensor] | None = None,
        originals: Mapping[str, Tensor] | None = None,
        attention: tuple[int, int] = (1, 16),
        experts: Mapping[str, Mapping[str, tuple[int, int, int]]] | None = None,
    ) -> None:
        self._weights = dict(weights)
        self._biases = dict(biases or {})
        self._dense = dict(dense or {})
        self._originals = dict(originals or {})
        self._attention = attention
        self._experts = dict(experts or {})
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
        weights = {
            f"model.layers.{layer}.{name}": torch.randn(shape, generator=random) * 0.2
            for layer in range(layers)
            for name, shape in shapes.items()
        }
        dense = {"model.embed_tokens": torch.randn(24, hidden, generator=random)}
        for layer in range(layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                dense[f"model.layers.{layer}.{norm}"] = torch.rand(hidden, generator=random) + 0.5
        dense["model.norm"] = torch.rand(hidden, generator=random) + 0.5
        return cls(weights, dense=dense, attention=(1, kv))

    @classmethod
    def of(
        cls, model: PreTrainedModel, originals: Mapping[str, Tensor] | None = None
    ) -> "RandomBase":
        """A transformers model's own weights, as they are."""
        linears = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name != "lm_head"
        }
        tied = bool(model.config.tie_word_embeddings)
        return cls(
            {name: linear.weight.data for name, linear in linears.items()},
            biases={
                name: linear.bias.data
                for name, linear in linears.items()
                if linear.bias is not None
            },
            dense={
                name: module.weight.data
                for name, module in model.named_modules()
                if name not in linears
                and isinstance(getattr(module, "weight", None), Tensor)
                and not (tied and name == "lm_head")
            },
            originals=originals,
            attention=(
                model.config.num_key_value_heads,
                model.config.hidden_size // model.config.num_attention_heads,
            ),
        )

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def hidden_size(self) -> int:
        return self.embedding()[1][1]

    def modules(self) -> Sequence[str]:
        return tuple(self._weights)

    def shape(self, module: str) -> tuple[int, int]:
        out_features, in_features = self._weights[module].shape
        return out_features, in_features

    def weight(self, module: str) -> Tensor:
        return self._weights[module]

    def bias(self, module: str) -> Tensor | None:
        return self._biases.get(module)

    def original(self, module: str) -> Tensor | None:
        return self._originals.get(module)

    def shares_input(self, module: str) -> bool:
        return not module.endswith(_ALONE)

    def layers(self) -> Sequence[str]:
        found = (name.split(".self_attn.")[0] for name in self._weights if ".self_attn." in name)
        return tuple(dict.fromkeys(found))

    def norms(self) -> Mapping[str, int]:
        return {path: weight.numel() for path, weight in self._dense.items() if weight.dim() == 1}

    def embedding(self) -> tuple[str, tuple[int, int]]:
        rows, columns = self._dense["model.embed_tokens"].shape
        return "model.embed_tokens", (rows, columns)

    def head(self) -> tuple[str, tuple[int, int], bool]:
        is_tied = "lm_head" not in self._dense
        rows, columns = self.dense("lm_head").shape
        return "lm_head", (rows, columns), is_tied

    def dense(self, path: str) -> Tensor:
        if path == "lm_head" and path not in self._dense:
            path = "model.embed_tokens"
        return self._dense[path]

    def experts(self) -> Mapping[str, Mapping[str, tuple[int, int, int]]]:
        return self._experts

    def attention_shape(self) -> tuple[int, int, int]:
        return len(self.layers()), *self._attention
