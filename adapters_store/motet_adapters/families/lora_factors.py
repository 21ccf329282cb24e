"""The two factors of a LoRA update, whatever the file holds of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.lora_config import PLAIN_INITS, LoraSettings
from motet_adapters.families.plan import Read
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.names import quoted


class Linear(NamedTuple):
    """A linear [N, K] of the base, or its output head."""

    path: str
    out_features: int
    in_features: int

    def key(self, suffix: str) -> str:
        """The name that PEFT gives a tensor of this linear."""
        return f"{KEY_PREFIX}{self.path}.{suffix}"


@dataclass(frozen=True)
class Factors:
    """A and B of one linear, before they are read."""

    rank: int
    """R, that of the lowered product."""
    tensors: Mapping[str, tuple[int, ...]]
    make: Callable[[Read], tuple[Tensor, Tensor]]
    """A [R, K] and B [N, R] with the scale folded in, float32."""


MakeFactors = Callable[[Linear], Factors]
Prepare = Callable[[Fields, LoraSettings, BaseWeights], MakeFactors]
"""Reads what of the config is a variant's own. Raises AdapterRefused."""


def plain_factors(settings: LoraSettings, linear: Linear) -> Factors:
    """LoRA's own."""
    rank = settings.rank_of(linear.path)
    scale = settings.scale_of(linear.path, rank)
    a, b = linear.key("lora_A.weight"), linear.key("lora_B.weight")
    tensors = {a: (rank, linear.in_features), b: (linear.out_features, rank)}
    return Factors(rank, tensors, lambda read: (read(a), read(b) * scale))


def plain(_fields: Fields, settings: LoraSettings, _base: BaseWeights) -> MakeFactors:
    """Refuses initialisations that nobody here knows."""
    if settings.init not in PLAIN_INITS:
        raise AdapterRefused(
            f"init_lora_weights={quoted(settings.init)} is not known. Use true or 'gaussian' if "
            "the base weights were left as they are.",
            "init_lora_weights",
        )
    return lambda linear: plain_factors(settings, linear)
