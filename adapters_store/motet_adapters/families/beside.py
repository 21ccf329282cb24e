"""What PEFT saves beside adapters of any family: trained biases, whole modules and tokens."""

from collections.abc import Collection, Iterator, Mapping

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import SitePlan
from motet_adapters.families.saved_modules import saved_sites
from motet_adapters.families.trained_biases import bias_sites
from motet_adapters.families.trained_tokens import token_sites
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor

BESIDE = frozenset({"bias", "modules_to_save", "trainable_token_indices", "ensure_weight_tying"})
"""The keys that are read here."""


def beside_sites(
    fields: Fields,
    targets: Collection[str],
    tensors: Mapping[str, StoredTensor],
    base: BaseWeights,
    prefix: str = "lora",
) -> Iterator[SitePlan]:
    """Sites to be `combined` with the family's own. targets: paths of its linears.

    prefix: of the family's name for a bias of its targets alone, "lora_only".
    """
    yield from bias_sites(bias_mode(fields, prefix), targets, base)
    tie_weights = fields.flag("ensure_weight_tying")
    yield from saved_sites(fields.names("modules_to_save"), tensors, base, tie_weights=tie_weights)
    yield from token_sites(fields, base)


def bias_mode(fields: Fields, prefix: str = "lora") -> str:
    """The key `bias`. Raises AdapterRefused for what PEFT does not know."""
    modes = ("none", "all", f"{prefix}_only")
    bias = fields.get("bias", "none")
    if bias not in modes:
        raise AdapterRefused(f"bias is {quoted(bias)}; use one of {', '.join(modes)}.", "bias")
    return str(bias)
