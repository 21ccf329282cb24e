"""Several plans for one place of the model, as one."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.plan import PartSpec, Read, SitePlan


def combined(sites: Iterable[SitePlan], base: BaseWeights) -> tuple[SitePlan, ...]:
    """One plan for each path, in order of first mention. Biases add up.

    A linear with nothing but a bias or a gain becomes an adapter of rank 0. Raises AdapterRefused
    where two plans make the same other part.
    """
    by_path: dict[str, list[SitePlan]] = {}
    for site in sites:
        by_path.setdefault(site.path, []).append(site)
    linears = frozenset(base.modules())
    found = []
    for path, plans in by_path.items():
        if path in linears and not any("a" in plan.parts for plan in plans):
            plans.append(_rank_zero(path, base))
        found.append(plans[0] if len(plans) == 1 else _joined(path, plans))
    return tuple(found)


def _rank_zero(path: str, base: BaseWeights) -> SitePlan:
    out_features, in_features = base.shape(path)
    parts = {"a": PartSpec((0, in_features)), "bt": PartSpec((0, out_features))}
    empty = {"a": torch.empty(0, in_features), "bt": torch.empty(0, out_features)}
    return SitePlan(path, {}, parts, lambda _read: empty)


def _joined(path: str, plans: list[SitePlan]) -> SitePlan:
    tensors: dict[str, tuple[int, ...]] = {}
    parts: dict[str, PartSpec] = {}
    for plan in plans:
        twice = parts.keys() & plan.parts.keys() - {"bias"}
        if twice:
            raise AdapterRefused(
                f"The config adapts {path} in two ways at once, which PEFT does not combine. Keep "
                "the one that was trained.",
                "target_modules",
            )
        tensors |= plan.tensors
        parts |= plan.parts

    def lower(read: Read) -> Mapping[str, Tensor]:
        lowered: dict[str, Tensor] = {}
        for plan in plans:
            for name, part in plan.lower(read).items():
                lowered[name] = lowered[name] + part if name in lowered else part
        return lowered

    return SitePlan(
        path,
        tensors,
        parts,
        lower,
        activation=plans[0].activation,
        bases={name: basis for plan in plans for name, basis in plan.bases.items()},
        integers=frozenset(name for plan in plans for name in plan.integers),
    )
