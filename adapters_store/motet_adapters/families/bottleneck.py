"""Bottleneck adapters of the `adapters` library: Houlsby (arXiv 1902.00751), Pfeiffer (2005.00247).

A directory of AdapterHub holds adapter_config.json, without a peft_type, and adapter.safetensors,
which is uploaded as adapter_model.safetensors. Each adapter computes a + s (Up f(Down h + c) + d):

- double_seq_bn (Houlsby): h = a = the output of o_proj, of down_proj, or both, before the residual
  is added. Down is folded into the linear: A = Down W.
- seq_bn (Pfeiffer; original_ln_before): h is the residual stream after the MLP, which is the
  layer's output, and so is a + residual.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.bottleneck_config import BottleneckSettings, bottleneck_settings
from motet_adapters.families.config_keys import ConfigKeys
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.limits import Limits
from motet_adapters.names import listed
from motet_adapters.safetensors_file import StoredTensor

PLACES = {"attention": ("attention_adapters", "o_proj"), "output": ("output_adapters", "down_proj")}
"""What the library calls its two places, and the linear whose output each adapts."""


@dataclass(frozen=True)
class _Names:
    """A place's tensors in the file."""

    prefix: str
    scaling: str | None  # of a scaling that was learned

    def of(self, name: str) -> str:
        return self.prefix + name


def plan_bottleneck(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, _limits: Limits
) -> AdapterPlan:
    settings = bottleneck_settings(fields, base.hidden_size)
    own_name = _own_name(tensors)
    sites = []
    for index, layer in enumerate(base.layers()):
        if index in settings.left_out:
            continue
        for place in settings.places:
            prefix = f"{layer}.{PLACES[place][0]}.adapters.{own_name}."
            # Saved from the bare model, names begin with its list of layers.
            if f"{prefix}adapter_down.0.weight" not in tensors:
                short = prefix.removeprefix("model.")
                prefix = short if f"{short}adapter_down.0.weight" in tensors else prefix
            names = _Names(prefix, None if settings.scale is not None else f"{prefix}scaling")
            sites.append(_site(settings, names, layer, index, place, base))
    return AdapterPlan("houlsby" if not settings.on_stream else "pfeiffer", tuple(sites))


def bottleneck_parts(
    down: Tensor, c: Tensor, up: Tensor, d: Tensor, scale: Tensor | float
) -> dict[str, Tensor]:
    """On the stream. down [R, D], c [R], up [D, R], d [D]; scale: a number, [1] or [D]."""
    wide = scale if isinstance(scale, float) else scale.reshape(-1, 1)
    return {"a": down, "inner_bias": c, "bt": (up * wide).t(), "bias": d * scale}


def folded_parts(
    parts: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    """The same behind a linear, weight [D, K] the one that really runs, bias [D]: of its input."""
    down = parts["a"]
    inner = parts["inner_bias"] if bias is None else parts["inner_bias"] + down @ bias
    return {**parts, "a": down @ weight, "inner_bias": inner}


def _site(
    settings: BottleneckSettings,
    names: _Names,
    layer: str,
    index: int,
    place: str,
    base: BaseWeights,
) -> SitePlan:
    d, r = base.hidden_size, settings.rank_of(index)
    linear = None if settings.on_stream else _linear(layer, PLACES[place][1], base)
    wanted: dict[str, tuple[int, ...]] = {
        names.of("adapter_down.0.weight"): (r, d),
        names.of("adapter_down.0.bias"): (r,),
        names.of("adapter_up.weight"): (d, r),
        names.of("adapter_up.bias"): (d,),
    }
    if names.scaling is not None:
        wanted[names.scaling] = (d if settings.scales_channels else 1,)
    inputs = d if linear is None else base.shape(linear)[1]
    parts = {
        "a": PartSpec((r, inputs)),
        "bt": PartSpec((r, d)),
        "inner_bias": PartSpec((r,)),
        "bias": PartSpec((d,)),
    }
    lower = partial(_lower, names, settings.scale, linear, base)
    return SitePlan(linear or layer, wanted, parts, lower, settings.activation)


def _lower(
    names: _Names, scale: float | None, linear: str | None, base: BaseWeights, read: Read
) -> dict[str, Tensor]:
    parts = bottleneck_parts(
        read(names.of("adapter_down.0.weight")),
        read(names.of("adapter_down.0.bias")),
        read(names.of("adapter_up.weight")),
        read(names.of("adapter_up.bias")),
        read(names.scaling or "") if scale is None else scale,
    )
    if linear is None:
        return parts
    return folded_parts(parts, base.weight(linear), base.bias(linear))


def _own_name(tensors: Mapping[str, StoredTensor]) -> str:
    """What the adapter was called where it was trained, which is in its tensors' names."""
    names = {
        name.partition(".adapters.")[2].partition(".")[0]
        for name in tensors
        if ".adapters." in name
    }
    if len(names) != 1:
        raise AdapterRefused(
            f"The names of the tensors tell of {len(names)} adapters: {listed(sorted(names))}. "
            "Save one with model.save_adapter(directory, name).",
            WEIGHTS_FILE,
        )
    return names.pop()


def _linear(layer: str, name: str, base: BaseWeights) -> str:
    found = [m for m in base.modules() if m.startswith(f"{layer}.") and m.endswith(f".{name}")]
    if len(found) != 1:
        raise AdapterRefused(
            f"{layer} has no single linear {name} behind which this adapter could be put. Serve "
            "the base it was trained on.",
            "config",
        )
    return found[0]


BOTTLENECK = Family(
    name="bottleneck",
    title="Houlsby and Pfeiffer adapters (the adapters library)",
    peft_type="",
    status="served",
    formula="y = a + s (Up f(Down h + c) + d)",
    lowering="double_seq_bn: a = Down W against the weight that runs, inner_bias = Down b_W + c, "
    "b = s Up, bias = s d; seq_bn: the same on the layer's output, a = Down",
    rank_after="D / reduction_factor",
    memory="r (K + D) + r + D a place",
    paper_url="https://arxiv.org/abs/1902.00751",
    keys=ConfigKeys(
        served=frozenset({"config", "hidden_size", "model_type"}),
        harmless=frozenset(
            {"model_name", "name", "model_class", "version", "config_id", "label2id", "type"}
        ),
    ),
    plan=plan_bottleneck,
)
