"""Which layers of a model look as if they were of the form of decoder_layer.py, and their parts.

By names and shapes alone; whether a layer computes what its parts suggest is for the trial in
layers.py to show.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from motet_kernels import AdaptedGroup, DecoderLayer, NormTable, RmsNorm
from torch import Tensor, nn

from motet.engine.linear import LinearGroup
from motet.engine.sites import Sites
from motet.engine.survey import LayerShape

log = logging.getLogger(__name__)

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
SILU = ("SiLU", "SiLUActivation")


@dataclass(frozen=True)
class Candidate:
    """A layer of the model that looks as if it were of the known form."""

    path: str
    original: nn.Module
    layer: DecoderLayer


def find_candidates(
    model: nn.Module,
    groups: Mapping[tuple[str, ...], LinearGroup],
    shapes: Mapping[int, LayerShape],
    caches: Mapping[int, tuple[Tensor, Tensor]],
    sites: Sites,
) -> list[Candidate]:
    """Those of the model's layers that look as if they could run in one call, in its order.

    groups: the linears that replaced the model's, by their paths. sites: what else of a layer
    adapters may change.
    """
    found = []
    for path, module in model.named_modules():
        attention = getattr(module, "self_attn", None)
        index = getattr(attention, "layer_idx", None)
        if not isinstance(index, int) or index not in shapes:
            continue
        try:
            layer = _decoder_layer(path, module, groups, shapes[index], caches[index], sites)
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
    sites: Sites,
) -> DecoderLayer:
    """Raises _NotOfThisForm for a layer that has other parts."""
    parts = dict(module.named_children())
    if set(parts) != PARTS:
        raise _NotOfThisForm("other parts than attention, MLP and two norms")
    attention, mlp = parts["self_attn"], parts["mlp"]
    head_norms = dict(attention.named_children())
    if shape.key_dim != shape.value_dim:
        raise _NotOfThisForm("keys and values of different sizes")
    if type(getattr(mlp, "act_fn", None)).__name__ not in SILU:
        raise _NotOfThisForm("an MLP that is not gated by SiLU")

    def group(*names: str) -> AdaptedGroup:
        linears = groups.get(tuple(f"{path}.{name}" for name in names))
        if linears is None:
            raise _NotOfThisForm(f"no linears {', '.join(names)} that share an input")
        return AdaptedGroup(linears.packed, linears.tables)

    def norm(name: str, part: nn.Module) -> RmsNorm:
        return _norm(part, sites.norm_tables.get(f"{path}.{name}"))

    def head_norm(name: str) -> RmsNorm | None:
        found = head_norms.get(name)
        return None if found is None else norm(f"self_attn.{name}", found)

    output = group("self_attn.o_proj")
    return DecoderLayer(
        qkv=group("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output=output,
        gate_up=group("mlp.gate_proj", "mlp.up_proj"),
        down=group("mlp.down_proj"),
        input_norm=norm("input_layernorm", parts["input_layernorm"]),
        post_norm=norm("post_attention_layernorm", parts["post_attention_layernorm"]),
        query_norm=head_norm("q_norm"),
        key_norm=head_norm("k_norm"),
        num_heads=output.packed.in_features // shape.key_dim,
        num_kv_heads=shape.num_kv_heads,
        head_size=shape.key_dim,
        scale=shape.attention.scale,
        window=shape.attention.window,
        softcap=shape.attention.softcap,
        k_cache=caches[0],
        v_cache=caches[1],
        output_adapters=sites.layer_tables.get(path),
    )


def _norm(module: nn.Module, table: NormTable | None) -> RmsNorm:
    weights = dict(module.named_parameters())
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if set(weights) != {"weight"} or not isinstance(eps, float):
        raise _NotOfThisForm(f"{type(module).__name__} is not an RMSNorm with one weight")
    return RmsNorm(weights["weight"].data, eps, table)
