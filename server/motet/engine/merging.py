"""An adapter's parts written into the weights of a plain transformers model, once and for all."""

from __future__ import annotations

import torch
from motet_adapters import SiteParts
from motet_adapters.image import Views
from torch import Tensor, nn
from transformers import PreTrainedModel

from motet.engine.base.model_parts import ModelParts
from motet.engine.virtual_tokens import PREFIX_SITE
from motet.errors import MotetError


class CannotMerge(MotetError):
    """The adapter is more than a change of weights; the message says where."""


@torch.no_grad()
def merge(model: PreTrainedModel, views: Views) -> None:
    """Change `model`'s weights, in float32, to what the adapter makes of them.

    model: on the weights that the views were lowered against, with plain linears in all places.
    A tied output head gets a weight of its own where embedding and head come to differ.
    Raises CannotMerge, and the model is of no use then.
    """
    if PREFIX_SITE in views:
        raise CannotMerge(
            "The adapter puts virtual tokens before every prompt. They are no change of the "
            "weights: serve it as an adapter."
        )
    parts = ModelParts.of(model)
    if parts.is_tied and {parts.embedding.path, parts.head.path} & set(views):
        _untie(model)
    for path, site in views.items():
        if path in parts.layers:
            raise CannotMerge(
                f"The adapter computes on the output of {path}, where the model has no weight to "
                "change: serve it as an adapter."
            )
        module = model.get_submodule(path)
        if isinstance(module, nn.Linear):
            _merge_linear(path, module, site)
        elif path == parts.embedding.path:
            _merge_embedding(module, site)
        elif path in parts.norms:
            module.get_parameter("weight").copy_(site.tensors["weight"])
        else:
            _merge_experts(module, site)


def _untie(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


def _merge_linear(path: str, linear: nn.Linear, site: SiteParts) -> None:
    tensors = site.tensors
    if site.activation != "identity" or "inner_bias" in tensors:
        raise CannotMerge(
            f"The adapter has a non-linearity at {path}, so it is no change of the weight: serve "
            "it as an adapter."
        )
    weight = tensors.get("weight", linear.weight).float()
    if "a" in tensors:
        weight = _adapted(weight, tensors["bt"].float().t() @ _inner(site), site)
    linear.weight.copy_(weight)
    if "rows" in tensors:
        linear.weight[tensors["rows_index"]] = tensors["rows"].to(linear.weight.dtype)
    if "bias" in tensors:
        if linear.bias is None:
            raise CannotMerge(
                f"The adapter adds a bias at {path}, and the model has none there: serve it as an "
                "adapter."
            )
        linear.bias.add_(tensors["bias"])


def _adapted(weight: Tensor, delta: Tensor, site: SiteParts) -> Tensor:
    """gain * (W + delta_gain * delta) * in_gain, of `motet_kernels.LowRank`. All [N, K]."""
    find = site.tensors.get
    delta_gain, gain, in_gain = find("delta_gain"), find("gain"), find("in_gain")
    whole = weight + (delta if delta_gain is None else delta_gain.float()[:, None] * delta)
    whole = whole if gain is None else gain.float()[:, None] * whole
    return whole if in_gain is None else whole * in_gain.float()


def _inner(site: SiteParts) -> Tensor:
    """core A [R, K]."""
    a = site.tensors["a"].float()
    if "core_values" not in site.tensors:
        return a
    values, columns = site.tensors["core_values"].float(), site.tensors["core_columns"].long()
    core = torch.zeros(len(a), len(a)).scatter_add_(1, columns, values)
    return core @ a


def _merge_embedding(embedding: nn.Module, site: SiteParts) -> None:
    tensors, weight = site.tensors, embedding.get_parameter("weight")
    changed = weight.float()
    if "at" in tensors:
        changed = changed + tensors["at"].float() @ tensors["bt"].float()
    if "gain" in tensors:
        changed = changed * tensors["gain"].float()
    weight.copy_(changed)
    if "rows" in tensors:
        weight[tensors["rows_index"]] = tensors["rows"].to(weight.dtype)


def _merge_experts(module: nn.Module, site: SiteParts) -> None:
    for name in {part.partition(".")[0] for part in site.tensors}:
        weight = module.get_parameter(name)
        a, bt = site.tensors[f"{name}.a"].float(), site.tensors[f"{name}.bt"].float()
        delta = torch.einsum("ern,erk->enk", bt, a)
        if weight.dim() == 2:  # a router's, which is as one expert
            delta = delta[0]
        elif module.is_transposed:
            delta = delta.mT
        weight.add_(delta)
