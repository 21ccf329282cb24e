"""Configs of the families that borrow PEFT's LORA config for something else."""

from collections.abc import Iterable

from motet_adapters.families.config_keys import TARGETS, ConfigKeys
from motet_adapters.families.lora_config import KEYS

_SERVED = TARGETS | {
    "r",
    "lora_alpha",
    "bias",
    "use_rslora",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
}
# PEFT writes them into every config, with values that are not empty.
_ALWAYS_THERE = {"qalora_group_size", "loftq_config"}


def lora_like_keys(title: str, own: Iterable[str] = ()) -> ConfigKeys:
    """The keys of plain LoRA and the family's own; all else that LoRA is served with is refused."""
    served = _SERVED | set(own)
    fix = f"{title} is not served together with it; train without"
    refused = dict.fromkeys(KEYS.served - served - _ALWAYS_THERE, fix)
    return ConfigKeys(served, KEYS.harmless | _ALWAYS_THERE, {**KEYS.refused, **refused})
