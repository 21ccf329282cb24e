"""Sites whose update of a linear is a product B A, made of that linear's tensors alone."""

from collections.abc import Callable, Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.config_keys import COMMON, TARGETS, ConfigKeys
from motet_adapters.families.modules import targeted_linears
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.safetensors_file import StoredTensor

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a module's tensors, by what follows the module's path in their names."""

Factors = Callable[..., tuple[Tensor, Tensor]]
"""A module's tensors, float32, in the order of their shapes -> A [R, K], B [N, R]."""

MAX_ALPHA = 1e9
"""Far above any in use; keeps a scale finite in float32."""

WHOLE_MODULES = "whole modules trained beside the adapter are not served; train without it"
TRANSPOSED = (
    "transposed weights (Conv1D) are not served; train with fan_in_fan_out=False on linears"
)


def product_keys(served: set[str], harmless: set[str]) -> ConfigKeys:
    """The keys of a PEFT config that adapts linears, `served` and `harmless` being its own."""
    return ConfigKeys(
        served=TARGETS | served,
        harmless=COMMON | {"init_weights"} - served | harmless,
        refused={"modules_to_save": WHOLE_MODULES, "fan_in_fan_out": TRANSPOSED},
    )


def linears_of(fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights) -> list[str]:
    """Paths of the linears the config targets. Raises AdapterRefused."""
    return targeted_linears(fields.targets(), base, tensors)


def key(module: str, suffix: str) -> str:
    """The name that PEFT gives a module's tensor."""
    return f"{KEY_PREFIX}{module}.{suffix}"


def product_site(
    base: BaseWeights, module: str, rank: int, shapes: Shapes, factors: Factors
) -> SitePlan:
    """A site that is LoRA of `rank` once it is lowered."""
    return shared_product_site(
        base,
        module,
        rank,
        {key(module, suffix): shape for suffix, shape in shapes.items()},
        factors,
    )


def shared_product_site(
    base: BaseWeights, module: str, rank: int, tensors: Shapes, factors: Factors
) -> SitePlan:
    """The same with whole names of tensors, which several sites may read."""
    out_features, in_features = base.shape(module)
    names = tuple(tensors)

    def lower(read: Read) -> dict[str, Tensor]:
        a, b = factors(*(read(name) for name in names))
        return {"a": a, "bt": b.t()}

    parts = {"a": PartSpec((rank, in_features)), "bt": PartSpec((rank, out_features))}
    return SitePlan(module, tensors, parts, lower)
