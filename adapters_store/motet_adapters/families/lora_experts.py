"""target_parameters: LoRA on the stacked weights of a mixture's experts and on its router, as PEFT
wraps them."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.lora_config import LoraSettings
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.names import quoted

_KEY = "target_parameters"


class _Parameter(NamedTuple):
    """One of a module's stacked weights, E times [N, K]."""

    name: str
    path: str  # of the module, in the file
    num_experts: int
    out_features: int
    in_features: int
    rank: int
    scale: float

    @property
    def a(self) -> str:
        return f"{self.path}.lora_A.weight"

    @property
    def b(self) -> str:
        return f"{self.path}.lora_B.weight"


def expert_sites(
    names: tuple[str, ...], settings: LoraSettings, base: BaseWeights
) -> Iterator[SitePlan]:
    """One site for each module of experts. A name stands for the parameter of that path and for
    every one whose path ends in "." and it.

    PEFT wraps a module once for each of its targeted parameters, in their order in the module: the
    tensors of all but the last are behind as many ".base_layer".
    """
    if names and (settings.use_dora or settings.lora_bias):
        raise AdapterRefused(
            f"{_KEY} is set beside use_dora or lora_bias, which PEFT does not combine. Keep the "
            "one that was trained.",
            _KEY,
        )
    known = set()
    for module, shapes in base.experts().items():
        targeted = []
        for parameter in shapes:
            found = {name for name in names if f".{module}.{parameter}".endswith(f".{name}")}
            known |= found
            if found:
                targeted.append(parameter)
        if targeted:
            yield _site(module, targeted, shapes, settings)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise AdapterRefused(
            f"{_KEY} names {quoted(unknown[0])}, which is no stacked weight of experts of this "
            "base, nor of their router. Target linear modules by target_modules, or serve the base "
            "the adapter was trained on.",
            _KEY,
        )


def _site(
    module: str,
    targeted: list[str],
    shapes: Mapping[str, tuple[int, int, int]],
    settings: LoraSettings,
) -> SitePlan:
    tensors: dict[str, tuple[int, ...]] = {}
    parts: dict[str, PartSpec] = {}
    parameters = []
    for index, name in enumerate(targeted):
        rank = settings.rank_of(f"{module}.{name}")
        scale = settings.scale_of(f"{module}.{name}", rank)
        inner = ".base_layer" * (len(targeted) - 1 - index)
        one = _Parameter(name, f"{KEY_PREFIX}{module}{inner}", *shapes[name], rank, scale)
        parameters.append(one)
        tensors[one.a] = (rank * one.num_experts, one.in_features)
        tensors[one.b] = (one.out_features, rank * one.num_experts)
        parts[f"{name}.a"] = PartSpec((one.num_experts, rank, one.in_features))
        parts[f"{name}.bt"] = PartSpec((one.num_experts, rank, one.out_features))
    return SitePlan(module, tensors, parts, partial(_lower, parameters))


def _lower(parameters: list[_Parameter], read: Read) -> dict[str, Tensor]:
    """PEFT lays A's rows out expert by expert, and B's columns rank by rank."""
    lowered: dict[str, Tensor] = {}
    for one in parameters:
        a = read(one.a).view(one.num_experts, one.rank, one.in_features)
        b = (read(one.b) * one.scale).view(one.out_features, one.rank, one.num_experts)
        lowered |= {f"{one.name}.a": a, f"{one.name}.bt": b.permute(2, 1, 0)}
    return lowered
