"""The first seam: paged attention inside unmodified transformers models.

transformers hands the queries, keys and values of every layer to a registered function, together
with our own keyword of the forward call, `step`. The function is stateless; the step carries the
caches and the layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from motet_kernels import AttentionPlan, LayerStep, Ops, Routing
from torch import Tensor, nn
from transformers import AttentionInterface

from motet.errors import UnsupportedModel

ATTENTION_NAME = "motet"

HARMLESS = frozenset(
    {
        "cache_position",
        "head_mask",
        "layer_idx",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
"""Keywords that reach an attention function and say nothing about the result we compute.

Any other keyword that is set means mathematics we would be dropping, so the model is refused.
"""


@dataclass(frozen=True)
class LayerAttention:
    """What one layer asks of attention besides its tensors."""

    layer: int
    scale: float
    window: int | None
    softcap: float | None


class AttentionStep(Protocol):
    """One forward pass as the attention layers see it."""

    def attend(self, layer: LayerAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, Hq, D], k [T, Hkv, D], v [T, Hkv, Dv] -> [T, Hq, Dv]."""
        ...


@dataclass(frozen=True)
class PagedStep:
    """Stores the step's keys and values, then attends over each row's blocks."""

    ops: Ops
    caches: Mapping[int, tuple[Tensor, Tensor]]  # layer -> [P, block, Hkv, D], [P, block, Hkv, Dv]
    kv_slots: Tensor  # int64 [T]
    plan: AttentionPlan
    routing: Routing
    _layer_steps: list[tuple[Tensor, LayerStep]] = field(default_factory=list)

    def layer_step(self, cos: Tensor, sin: Tensor) -> LayerStep:
        """The step for whole layers; cos and sin [1, T, D]. Layers that are handed the same two
        tensors share one."""
        for made, step in self._layer_steps:
            if made is cos:
                return step
        step = LayerStep(self.routing, self.plan, self.kv_slots, cos[0], sin[0])
        self._layer_steps.append((cos, step))
        return step

    def attend(self, layer: LayerAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k_cache, v_cache = self.caches[layer.layer]
        self.ops.store_kv(k, v, k_cache, v_cache, self.kv_slots)
        return self.ops.attention(
            q,
            k_cache,
            v_cache,
            self.plan,
            scale=layer.scale,
            window=layer.window,
            softcap=layer.softcap,
        )


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: AttentionStep | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The registered function: query [1, Hq, T, D] -> ([1, T, Hq, Dv], no weights).

    Raises UnsupportedModel if the layer drops our keyword or asks for something it would not get.
    """
    name = type(module).__name__
    if step is None:
        raise UnsupportedModel(f"{name} does not hand extra keywords to its attention function")
    if attention_mask is not None:
        raise UnsupportedModel(f"{name} brings an attention mask of its own")
    if dropout or is_causal is False:
        raise UnsupportedModel(f"{name} asks for dropout or for attention that is not causal")
    unknown = sorted(
        key for key, setting in others.items() if setting is not None and key not in HARMLESS
    )
    if unknown:
        raise UnsupportedModel(f"{name} asks its attention function for {', '.join(unknown)}")
    layer = LayerAttention(
        layer=int(module.layer_idx),  # type: ignore[arg-type]
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    return step.attend(layer, q, k, v).unsqueeze(0), None


def register_attention() -> None:
    """Make `attend` known to transformers; registering it again changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, attend)
