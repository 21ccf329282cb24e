"""bias="all" and "lora_only": the base's own biases, trained. b_t = saved - base, on top of it."""

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX


def bias_sites(which: str, targeted: Collection[str], base: BaseWeights) -> Iterator[SitePlan]:
    """Sites with a bias alone. which: the config's `bias`, "none", "all" or "..._only".

    PEFT saves the bias of a targeted linear as MODULE.base_layer.bias and, with "all", those of the
    others as MODULE.bias.
    """
    if which == "none":
        return
    for module in base.modules():
        if (which == "all" or module in targeted) and base.bias(module) is not None:
            inner = ".base_layer" if module in targeted else ""
            yield _bias_site(module, f"{KEY_PREFIX}{module}{inner}.bias", base)


def _bias_site(module: str, name: str, base: BaseWeights) -> SitePlan:
    out_features, _ = base.shape(module)

    def lower(read: Read) -> Mapping[str, Tensor]:
        own = base.bias(module)
        saved = read(name)
        return {"bias": saved if own is None else saved - own}

    return SitePlan(module, {name: (out_features,)}, {"bias": PartSpec((out_features,))}, lower)
