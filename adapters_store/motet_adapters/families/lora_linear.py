"""A linear with a LoRA update of any kind: W x + s B A x, DoRA's gain and trained biases."""

from collections.abc import Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.dora import dora_gain
from motet_adapters.families.lora_config import LoraSettings
from motet_adapters.families.lora_factors import Factors, Linear
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.safetensors_file import StoredTensor

_MAGNITUDE = "lora_magnitude_vector"


def lora_site(
    settings: LoraSettings,
    linear: Linear,
    factors: Factors,
    tensors: Mapping[str, StoredTensor],
    base: BaseWeights,
) -> SitePlan:
    """The site of a targeted linear or of the output head."""
    path, out_features, in_features = linear
    wanted = dict(factors.tensors)
    parts = {
        "a": PartSpec((factors.rank, in_features)),
        "bt": PartSpec((factors.rank, out_features)),
    }
    lora_bias = magnitude = None
    if settings.use_dora:
        magnitude = magnitude_name(path, tensors)
        wanted[magnitude] = (out_features,)
        parts["gain"] = PartSpec((out_features,))
    if settings.lora_bias:
        lora_bias = linear.key("lora_B.bias")
        wanted[lora_bias] = (out_features,)
        parts["bias"] = PartSpec((out_features,))
    bias_scale = settings.scale_of(path, settings.rank_of(path))
    is_head = path == base.head()[0]

    def lower(read: Read) -> dict[str, Tensor]:
        a, b = factors.make(read)
        lowered = {"a": a, "bt": b.t()}
        if magnitude is not None:
            weight = base.dense(path) if is_head else base.weight(path)
            lowered["gain"] = dora_gain(weight, a, b, read(magnitude))
        if lora_bias is not None:
            # PEFT scales all of lora_B(lora_A(x)).
            lowered["bias"] = read(lora_bias) * bias_scale
        return lowered

    return SitePlan(path, wanted, parts, lower)


def magnitude_name(path: str, tensors: Mapping[str, StoredTensor]) -> str:
    """DoRA's magnitudes of a module. PEFT writes the short name and loads both."""
    name = f"{KEY_PREFIX}{path}.{_MAGNITUDE}"
    return f"{name}.weight" if name not in tensors and f"{name}.weight" in tensors else name
