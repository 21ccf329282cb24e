"""LoRA on experts as they were before transformers 5 stacked their weights: linears of their own.

PEFT 0.21 reads such files and stacks them (`utils/transformers_weight_conversion.py`). The gate and
up projections of an expert are one weight [gate; up] now, and their updates one of twice the rank:
A = [A_gate; A_up], B block-diagonal.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.lora_config import LoraSettings
from motet_adapters.families.modules import trained_modules
from motet_adapters.families.plan import PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.safetensors_file import StoredTensor
from motet_adapters.targets import TargetSpec, unknown_names

_EXPERTS, _ROUTER = ".experts", "gate"
# The module they were in, and what it called the linears that are one stacked weight now.
_FORMS: tuple[tuple[str, Mapping[str, tuple[str, ...]]], ...] = (
    ("mlp", {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}),
    ("block_sparse_moe", {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}),
)
_NAMES = frozenset({_ROUTER, "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})


def without_experts(
    spec: TargetSpec, tensors: Mapping[str, StoredTensor], base: BaseWeights
) -> tuple[TargetSpec, frozenset[str]]:
    """The targets that are modules of the base, and names of the experts' linears and router that
    are among them. There are none of those unless the file has single experts' tensors; then there
    may be none of the others, which are no names at all.
    """
    if not any(f"{_EXPERTS}.0." in name for name in tensors):
        return spec, frozenset()
    modules = [*base.modules(), base.embedding()[0], base.head()[0]]
    if spec.expression is not None:
        has_others = bool(trained_modules(tensors, modules))
        return (spec if has_others else TargetSpec()), _NAMES
    old = _NAMES.intersection(unknown_names(spec, modules))
    return replace(spec, names=tuple(n for n in spec.names if n not in old)), _NAMES & {*spec.names}


def unstacked_sites(
    targeted: frozenset[str],
    settings: LoraSettings,
    tensors: Mapping[str, StoredTensor],
    base: BaseWeights,
) -> Iterator[SitePlan]:
    """One site for each module of experts, and each router, that the file has tensors of."""
    if not targeted:
        return
    has_patterns = not (settings.rank_pattern.is_empty and settings.alpha_pattern.is_empty)
    if settings.use_dora or settings.lora_bias or settings.use_rslora or has_patterns:
        raise AdapterRefused(
            "use_dora, lora_bias, use_rslora or a pattern is set, and the file has tensors of "
            "single experts, which PEFT does not combine. Train it with transformers 5 and PEFT "
            "0.21.",
            "target_modules",
        )
    for module, shapes in base.experts().items():
        parent, _, last = module.rpartition(".")
        for place, form in _FORMS:
            prefix = f"{KEY_PREFIX}{parent.rpartition('.')[0]}.{place}.{last}"
            if last == _ROUTER and f"{prefix}.lora_A.weight" in tensors and _ROUTER in targeted:
                yield _router_site(module, prefix, shapes, settings)
            elif module.endswith(_EXPERTS):
                linears = {
                    parameter: names
                    for parameter, names in form.items()
                    if parameter in shapes
                    and targeted.issuperset(names)
                    and f"{prefix}.0.{names[0]}.lora_A.weight" in tensors
                }
                if linears:
                    yield _experts_site(module, prefix, linears, shapes, settings)


class _Stacked(NamedTuple):
    """A stacked weight [E, N, K] and whose factors make its update, expert by expert."""

    parameter: str
    num_experts: int
    out_features: int
    in_features: int
    rank: int  # of each linear that was one
    keys: tuple[str, ...]  # of those linears, with {} for the expert
    scale: float

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for expert in range(self.num_experts):
            for key in self.keys:
                name = key.format(expert)
                yield f"{name}.lora_A.weight", (self.rank, self.in_features)
                yield f"{name}.lora_B.weight", (self.out_features // len(self.keys), self.rank)

    def parts(self) -> dict[str, PartSpec]:
        rank = self.rank * len(self.keys)
        return {
            f"{self.parameter}.a": PartSpec((self.num_experts, rank, self.in_features)),
            f"{self.parameter}.bt": PartSpec((self.num_experts, rank, self.out_features)),
        }

    def lower(self, read: Read) -> dict[str, Tensor]:
        a, bt = [], []
        for expert in range(self.num_experts):
            names = [key.format(expert) for key in self.keys]
            own = [read(f"{name}.lora_B.weight").t() * self.scale for name in names]
            a.append(torch.cat([read(f"{name}.lora_A.weight") for name in names]))
            bt.append(torch.block_diag(*own))  # type: ignore[no-untyped-call]
        return {f"{self.parameter}.a": torch.stack(a), f"{self.parameter}.bt": torch.stack(bt)}


def _experts_site(
    module: str,
    prefix: str,
    linears: Mapping[str, tuple[str, ...]],
    shapes: Mapping[str, tuple[int, int, int]],
    settings: LoraSettings,
) -> SitePlan:
    stacked = []
    for parameter, names in linears.items():
        keys = tuple(f"{prefix}.{{}}.{name}" for name in names)
        rank = settings.rank
        one = _Stacked(parameter, *shapes[parameter], rank, keys, settings.alpha / rank)
        stacked.append(one)
    return _site(module, stacked)


def _router_site(
    module: str,
    prefix: str,
    shapes: Mapping[str, tuple[int, int, int]],
    settings: LoraSettings,
) -> SitePlan:
    ((parameter, shape),) = shapes.items()
    scale = settings.alpha / settings.rank
    return _site(module, [_Stacked(parameter, *shape, settings.rank, (prefix,), scale)])


def _site(module: str, stacked: list[_Stacked]) -> SitePlan:
    tensors = dict(pair for one in stacked for pair in one.tensors())
    parts = {name: part for one in stacked for name, part in one.parts().items()}
    return SitePlan(module, tensors, parts, partial(_lower, stacked))


def _lower(stacked: list[_Stacked], read: Read) -> dict[str, Tensor]:
    return {name: part for one in stacked for name, part in one.lower(read).items()}
