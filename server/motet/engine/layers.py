"""The third seam: a decoder layer of a known form as one operation.

A layer is taken for one of that form by its parts' names and shapes, and then by its results: both
run on the same tokens, and only a layer that answers as transformers' own does is replaced. A model
of another form keeps its layers, and loses nothing but speed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from motet_kernels import (
    AdaptedGroup,
    CannotFuse,
    DecoderLayer,
    FusedLayer,
    LayerOps,
    RmsNorm,
)
from torch import Tensor, nn

from motet.engine.attention import PagedStep
from motet.engine.linear import LinearGroup
from motet.engine.survey import LayerShape

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference from transformers' own layer, relative to the layer's largest output."""


class OneCallLayer(nn.Module):
    """A decoder layer that computes a paged step in one call; anything else as it always did."""

    def __init__(self, original: nn.Module, ops: LayerOps, fused: FusedLayer, index: int) -> None:
        super().__init__()
        self.original = original
        self._ops = ops
        self._fused = fused
        self._index = index

    def forward(self, hidden_states: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """hidden_states [1, T, H] -> the same shape."""
        step = keywords.get("step")
        if not isinstance(step, PagedStep):
            result: Tensor = self.original(hidden_states, *arguments, **keywords)
            return result
        return self.in_one_call(hidden_states, step, keywords["position_embeddings"])

    def in_one_call(
        self, hidden_states: Tensor, step: PagedStep, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        k_cache, v_cache = step.caches[self._index]
        y = self._ops.decoder_layer(
            hidden_states[0], self._fused, step.layer_step(*rotary), k_cache, v_cache
        )
        return y[None]


class LayerOnTrial(nn.Module):
    """Runs both for as long as it is in place, and answers what the original does."""

    def __init__(self, candidate: OneCallLayer) -> None:
        super().__init__()
        self.candidate = candidate
        self.differences: list[float] = []  # of each run, relative to the largest output

    def forward(self, hidden_states: Tensor, **keywords: Any) -> Tensor:
        expected: Tensor = self.candidate.original(hidden_states, **keywords)
        rotary = keywords.get("position_embeddings")
        if isinstance(rotary, tuple):
            try:
                actual = self.candidate.in_one_call(hidden_states, keywords["step"], rotary)
            except ValueError as error:
                # what the kernels refuse, such as a rotation of half a head
                log.info("a layer cannot run in one call: %s", error)
                self.differences.append(float("inf"))
            else:
                largest = expected.float().abs().max()
                difference = (actual.float() - expected.float()).abs().max() / largest
                self.differences.append(float(difference))
        return expected

    def passed(self, dtype: torch.dtype) -> bool:
        allowed = TOLERANCE.get(dtype, 0.0)
        # written so that a NaN does not pass
        return bool(self.differences) and all(seen <= allowed for seen in self.differences)


def candidates(
    model: nn.Module,
    ops: object,
    groups: Mapping[tuple[str, ...], LinearGroup],
    shapes: Mapping[int, LayerShape],
) -> dict[str, OneCallLayer]:
    """Those of the model's layers, by path, that look as if they could run in one call.

    groups: the linears that replaced the model's, by their paths.
    """
    if not isinstance(ops, LayerOps):
        return {}
    found = {}
    for path, module in model.named_modules():
        index = getattr(getattr(module, "self_attn", None), "layer_idx", None)
        if index not in shapes:
            continue
        try:
            layer = _decoder_layer(path, module, groups, shapes[index])
            found[path] = OneCallLayer(module, ops, ops.fuse(layer), index)
        except (CannotFuse, _NotOfThisForm, ValueError) as reason:
            log.info("layer %s keeps its own forward: %s", path, reason)
    return found


class _NotOfThisForm(Exception):
    pass


def _decoder_layer(
    path: str,
    module: nn.Module,
    groups: Mapping[tuple[str, ...], LinearGroup],
    shape: LayerShape,
) -> DecoderLayer:
    """Raises _NotOfThisForm for a layer that has other parts."""
    parts = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    attention, mlp = module.self_attn, getattr(module, "mlp", None)
    if {name for name, _ in module.named_children()} != parts or not isinstance(mlp, nn.Module):
        raise _NotOfThisForm("other parts than attention, MLP and two norms")
    heads = {"q_norm", "k_norm"} & {name for name, _ in attention.named_children()}
    if shape.key_dim != shape.value_dim:
        raise _NotOfThisForm("keys and values of different sizes")
    if _activation(mlp) not in ("SiLU", "SiLUActivation"):
        raise _NotOfThisForm("an MLP that is not gated by SiLU")

    def group(*names: str) -> AdaptedGroup:
        linears = groups.get(tuple(f"{path}.{name}" for name in names))
        if linears is None:
            raise _NotOfThisForm(f"no linears {', '.join(names)} that share an input")
        return AdaptedGroup(linears.packed, linears.tables)

    output = group("self_attn.o_proj")
    return DecoderLayer(
        qkv=group("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output=output,
        gate_up=group("mlp.gate_proj", "mlp.up_proj"),
        down=group("mlp.down_proj"),
        input_norm=_norm(module.input_layernorm),
        post_norm=_norm(module.post_attention_layernorm),
        query_norm=_norm(attention.q_norm) if "q_norm" in heads else None,
        key_norm=_norm(attention.k_norm) if "k_norm" in heads else None,
        num_heads=output.packed.in_features // shape.key_dim,
        num_kv_heads=shape.num_kv_heads,
        head_size=shape.key_dim,
        scale=shape.attention.scale,
        window=shape.attention.window,
        softcap=shape.attention.softcap,
    )


def _activation(mlp: nn.Module) -> str:
    return type(getattr(mlp, "act_fn", None)).__name__


def _norm(module: nn.Module) -> RmsNorm:
    weights = dict(module.named_parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if set(weights) != {"weight"} or not isinstance(eps, float):
        raise _NotOfThisForm(f"{type(module).__name__} is not an RMSNorm with one weight")
    return RmsNorm(weights["weight"].data, eps)
