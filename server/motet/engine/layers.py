"""The third seam: decoder layers of a known form as one operation.

A layer is taken for one of that form by its parts' names and shapes, and then by its results: both
run on the same tokens, and only a layer that answers as transformers' own does is replaced. Those
that are fed each other's outputs run in one call. A model of another form keeps its layers, and
loses nothing but speed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from motet_kernels import DecoderLayer, LayerOps, LayerStep
from torch import Tensor, nn

from motet.engine.attention import PagedStep
from motet.engine.layer_form import Candidate

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest difference from transformers' own layer, relative to the layer's largest output."""


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
        self.stack = stack
        self._is_first = is_first

    def forward(self, hidden_states: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        """hidden_states [1, T, H] -> the same shape."""
        step = keywords.get("step")
        if not isinstance(step, PagedStep):
            result: Tensor = self.original(hidden_states, *arguments, **keywords)
            return result
        if not self._is_first:
            return self.stack.computed(hidden_states)
        return self.stack.compute(hidden_states, step.layer_step(*keywords["position_embeddings"]))


def put_on_trial(
    model: nn.Module, candidates: Sequence[Candidate], ops: LayerOps
) -> list[LayerOnTrial]:
    """Put a LayerOnTrial in place of each candidate, in the model's order."""
    trials: list[LayerOnTrial] = []
    for candidate in candidates:
        try:
            trial = LayerOnTrial(candidate, ops, trials[-1] if trials else None)
        except ValueError as reason:  # CannotFuse is one
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


def the_one_stack(layers: Iterable[nn.Module]) -> LayerStack | None:
    """The stack that all these layers are in; None if some are in another, or in none."""
    stacks = {layer.stack if isinstance(layer, StackedLayer) else None for layer in layers}
    return stacks.pop() if len(stacks) == 1 else None
