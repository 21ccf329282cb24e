"""The third seam: decoder layers of a known form as one operation.

A layer is taken for one of that form by its parts' names and shapes, and then by its results: both
run on the same tokens, and only a layer that answers as transformers' own does is replaced. Those
that are fed each other's outputs run in one call. A model of another form keeps its layers, and
loses nothing but speed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from motet_kernels import (
    AdaptedGroup,
    CannotFuse,
    DecoderLayer,
    LayerOps,
    LayerStep,
    RmsNorm,
)
from torch import Tensor, nn

from motet.engine.attention import PagedStep
from motet.engine.linear import LinearGroup
from motet.engine.survey import LayerShape

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference from transformers' own layer, relative to the layer's largest output."""


@dataclass(frozen=True)
class Candidate:
    """A layer of the model that looks as if it were of the known form."""

    path: str
    original: nn.Module
    layer: DecoderLayer


class LayerOnTrial(nn.Module):
    """Runs both for as long as it is in place, and answers what the original does."""

    def __init__(self, candidate: Candidate, ops: LayerOps, previous: LayerOnTrial | None) -> None:
        super().__init__()
        self.candidate = candidate
        self.differences: list[float] = []  # of each run, relative to the largest output
        self.follows = True  # whether each run was fed the very output of the layer before
        self.output: Tensor | None = None
        self._ops = ops
        self._fused = ops.fuse([candidate.layer])
        self._previous = (previous,)  # in a tuple, lest it count as a part of this module

    def forward(self, hidden_states: Tensor, **keywords: Any) -> Tensor:
        previous = self._previous[0]
        self.follows &= previous is not None and previous.output is hidden_states
        expected: Tensor = self.candidate.original(hidden_states, **keywords)
        step, rotary = keywords.get("step"), keywords.get("position_embeddings")
        difference = float("inf")
        if isinstance(step, PagedStep) and isinstance(rotary, tuple):
            try:
                actual = self._ops.decoder_layers(
                    hidden_states[0], self._fused, step.layer_step(*rotary)
                )
            except ValueError as error:
                # what the kernels refuse, such as a rotation of half a head
                log.info("a layer cannot run in one call: %s", error)
            else:
                largest = expected.float().abs().max()
                difference = float((actual - expected[0]).float().abs().max() / largest)
        self.differences.append(difference)
        self.output = expected
        return expected

    def passed(self, dtype: torch.dtype) -> bool:
        allowed = TOLERANCE.get(dtype, 0.0)
        # written so that a NaN does not pass
        return bool(self.differences) and all(seen <= allowed for seen in self.differences)


class LayerStack:
    """Layers that follow each other, computed when the first of them is called."""

    def __init__(self, layers: Sequence[DecoderLayer], ops: LayerOps) -> None:
        self._ops = ops
        self._fused = ops.fuse(layers)
        self._output: Tensor | None = None

    def compute(self, hidden_states: Tensor, step: LayerStep) -> Tensor:
        self._output = self._ops.decoder_layers(hidden_states[0], self._fused, step)[None]
        return self._output

    def computed(self, hidden_states: Tensor) -> Tensor:
        """For the later layers: they must be handed what the first one returned."""
        if hidden_states is not self._output:
            raise RuntimeError("something came between two layers that had been seen to follow")
        return hidden_states


class StackedLayer(nn.Module):
    """A layer of a stack in a paged step, and itself in any other forward."""

    def __init__(self, original: nn.Module, stack: LayerStack, *, is_first: bool) -> None:
        super().__init__()
        self.original = original
        self._stack = stack
        self._is_first = is_first

    def forward(self, hidden_states: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """hidden_states [1, T, H] -> the same shape."""
        step = keywords.get("step")
        if not isinstance(step, PagedStep):
            result: Tensor = self.original(hidden_states, *arguments, **keywords)
            return result
        if not self._is_first:
            return self._stack.computed(hidden_states)
        return self._stack.compute(hidden_states, step.layer_step(*keywords["position_embeddings"]))


def put_on_trial(
    model: nn.Module, candidates: Sequence[Candidate], ops: LayerOps
) -> list[LayerOnTrial]:
    """Put a LayerOnTrial in place of each candidate, in the model's order."""
    trials: list[LayerOnTrial] = []
    for candidate in candidates:
        try:
            trial = LayerOnTrial(candidate, ops, trials[-1] if trials else None)
        except CannotFuse as reason:
            log.info("layer %s keeps its own forward: %s", candidate.path, reason)
            continue
        model.set_submodule(candidate.path, trial)
        trials.append(trial)
    return trials


def adopt(model: nn.Module, trials: Sequence[LayerOnTrial], ops: LayerOps) -> int:
    """End the trials: stacks of the layers that passed, the others as they were.

    Returns how many passed.
    """
    dtype = trials[0].candidate.layer.k_cache.dtype if trials else torch.float32
    stacks: list[list[LayerOnTrial]] = []
    passed = None
    for trial in trials:
        model.set_submodule(trial.candidate.path, trial.candidate.original)
        if not trial.passed(dtype):
            passed = None
            continue
        if passed is not None and trial.follows:
            stacks[-1].append(trial)
        else:
            stacks.append([trial])
        passed = trial
    for stack in stacks:
        shared = LayerStack([trial.candidate.layer for trial in stack], ops)
        for trial in stack:
            layer = StackedLayer(trial.candidate.original, shared, is_first=trial is stack[0])
            model.set_submodule(trial.candidate.path, layer)
    return sum(len(stack) for stack in stacks)


def find_candidates(
    model: nn.Module,
    groups: Mapping[tuple[str, ...], LinearGroup],
    shapes: Mapping[int, LayerShape],
    caches: Mapping[int, tuple[Tensor, Tensor]],
) -> list[Candidate]:
    """Those of the model's layers that look as if they could run in one call, in its order.

    groups: the linears that replaced the model's, by their paths.
    """
    found = []
    for path, module in model.named_modules():
        index = getattr(getattr(module, "self_attn", None), "layer_idx", None)
        if index not in shapes:
            continue
        try:
            layer = _decoder_layer(path, module, groups, shapes[index], caches[index])
        except _NotOfThisForm as reason:
            log.info("layer %s keeps its own forward: %s", path, reason)
        else:
            found.append(Candidate(path, module, layer))
    return found


class _NotOfThisForm(Exception):
    pass


def _decoder_layer(
    path: str,
    module: nn.Module,
    groups: Mapping[tuple[str, ...], LinearGroup],
    shape: LayerShape,
    caches: tuple[Tensor, Tensor],
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
        k_cache=caches[0],
        v_cache=caches[1],
    )


def _activation(mlp: nn.Module) -> str:
    return type(getattr(mlp, "act_fn", None)).__name__


def _norm(module: nn.Module) -> RmsNorm:
    weights = dict(module.named_parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if set(weights) != {"weight"} or not isinstance(eps, float):
        raise _NotOfThisForm(f"{type(module).__name__} is not an RMSNorm with one weight")
    return RmsNorm(weights["weight"].data, eps)
