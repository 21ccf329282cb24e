"""Find out how a transformers model is wired by running it once with its linears taken out.

Nothing here is a list of architectures: what a model does with four tokens says which of its
linears share an input, what each layer's keys and values look like, and whether the attention
seam carries at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from motet.engine.attention import LayerAttention
from motet.errors import UnsupportedModel

NUM_TOKENS = 4


@dataclass(frozen=True)
class LayerShape:
    """One layer's keys and values, and what it asks of attention."""

    num_kv_heads: int
    key_dim: int
    value_dim: int
    attention: LayerAttention


@dataclass(frozen=True)
class Survey:
    """How the model is wired. Every linear is in exactly one group."""

    groups: tuple[tuple[str, ...], ...]  # paths, in call order
    layers: Mapping[int, LayerShape]


class _Recorder(nn.Module):
    """Stands in for a linear [N, K]: notes what it was fed, answers zeros."""

    def __init__(self, path: str, out_features: int, calls: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.path = path
        self.out_features = out_features
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        # Keeping x keeps its identity: a freed tensor's id would be used again.
        self.calls.append((self.path, x))
        return x.new_zeros(*x.shape[:-1], self.out_features)


class _RecordingStep:
    """Stands in for a step: notes each layer's shapes, answers zeros."""

    def __init__(self) -> None:
        self.calls: list[LayerShape] = []

    def attend(self, layer: LayerAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.calls.append(LayerShape(k.shape[1], k.shape[2], v.shape[2], layer))
        return q.new_zeros(*q.shape[:2], v.shape[2])


def survey(model: PreTrainedModel, shapes: Mapping[str, tuple[int, int]]) -> Survey:
    """Run `model` once with recorders in place of the linears `shapes` names ([N, K] by path).

    The recorders stay in place: the caller puts its own modules there next. The model must use
    the attention function of `motet.engine.attention`. Raises UnsupportedModel.
    """
    calls: list[tuple[str, Tensor]] = []
    for path, (out_features, _) in shapes.items():
        model.set_submodule(path, _Recorder(path, out_features, calls))
    step = _RecordingStep()
    ids = torch.arange(NUM_TOKENS, device=model.device)[None]
    try:
        with torch.inference_mode():
            model(input_ids=ids, position_ids=ids, use_cache=False, step=step)
    except UnsupportedModel:
        raise
    except Exception as error:
        # Any model's code may run here, and fail in its own way on a call it was not made for.
        raise UnsupportedModel(
            f"{model.config.model_type} cannot be driven through paged attention: "
            f"{type(error).__name__} in its forward"
        ) from error
    layers = _layers(step.calls, model.config.get_text_config())
    return Survey(groups=_groups(calls, shapes), layers=layers)


def _groups(
    calls: Sequence[tuple[str, Tensor]], paths: Iterable[str]
) -> tuple[tuple[str, ...], ...]:
    """Paths called once each with the same tensor, consecutively; all others on their own."""
    called = [path for path, _ in calls]
    groups: list[list[str]] = []
    previous: Tensor | None = None
    for path, x in calls:
        if called.count(path) > 1:
            previous = None  # shared between layers: grouping it with either is not safe
            continue
        if groups and x is previous:
            groups[-1].append(path)
        else:
            groups.append([path])
        previous = x
    grouped = {path for group in groups for path in group}
    return (*(tuple(group) for group in groups), *((p,) for p in paths if p not in grouped))


def _layers(calls: Sequence[LayerShape], config: PreTrainedConfig) -> dict[int, LayerShape]:
    layers = {shape.attention.layer: shape for shape in calls}
    expected = config.num_hidden_layers
    if len(calls) != expected or len(layers) != expected:
        raise UnsupportedModel(
            f"{config.model_type} called the paged attention {len(calls)} times over "
            f"{len(layers)} layers where its configuration names {expected}: it has attention "
            "or state that Motet cannot page"
        )
    for layer, shape in layers.items():
        window = _window(config, layer)
        if shape.attention.window != window:
            raise UnsupportedModel(
                f"layer {layer} of {config.model_type} has a sliding window of {window} by its "
                f"configuration but hands {shape.attention.window} to its attention function"
            )
    return layers


def _window(config: PreTrainedConfig, layer: int) -> int | None:
    """The sliding window the configuration promises for a layer. Raises UnsupportedModel."""
    types = getattr(config, "layer_types", None)
    if types is not None and types[layer] not in ("full_attention", "sliding_attention"):
        raise UnsupportedModel(f"layer {layer} of {config.model_type} is {types[layer]}")
    window: int | None = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        return None
    if types is not None and types[layer] != "sliding_attention":
        return None
    return window
