"""Which places of the base an upload adapts, by its config."""

from collections.abc import Iterable, Sequence

from motet_adapters.base_weights import BaseWeights
from motet_adapters.errors import AdapterRefused
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.names import listed
from motet_adapters.targets import TargetSpec, targeted, unknown_names

_OF_THE_BASE = frozenset({"weight", "bias", "base_layer.weight", "base_layer.bias"})


def targeted_linears(targets: TargetSpec, base: BaseWeights, tensors: Iterable[str]) -> list[str]:
    """As `targeted_modules`, where only linears can be adapted."""
    return targeted_modules(targets, base.modules(), tensors)


def targeted_modules(
    targets: TargetSpec,
    linears: Sequence[str],
    tensors: Iterable[str],
    others: Sequence[str] = (),
) -> list[str]:
    """Those of `linears` and `others` that were trained, in their order, at least one.

    "all-linear" means the linears. An expression is never run: PEFT adapts on loading what it
    matches, and what it matched in training is what the file has tensors for.
    Raises AdapterRefused for names that stand for nothing.
    """
    modules = [*linears, *others]
    unknown = unknown_names(targets, modules)
    if unknown:
        raise AdapterRefused(
            f"target_modules names what is no adaptable module of the base: {listed(unknown)}. "
            "Correct it to what was trained, or serve the base the adapter was trained on.",
            "target_modules",
        )
    found = targeted(targets, linears if targets.is_all_linear else modules)
    if targets.is_expression:
        trained = trained_modules(tensors, modules)
        found = [module for module in found if module in trained]
    if not found:
        raise AdapterRefused(
            "No module of the base is targeted: exclude_modules or layers_to_transform leaves "
            "none, or the file has tensors of none. Correct them to what was trained.",
            "target_modules",
        )
    return found


def trained_modules(tensors: Iterable[str], modules: Iterable[str]) -> frozenset[str]:
    """Those of `modules` that the file has tensors for, other than copies of the base's own."""
    known, found = frozenset(modules), set()
    for name in tensors:
        if name.startswith(KEY_PREFIX):
            path = name.removeprefix(KEY_PREFIX)
            for index, character in enumerate(path):
                if character == "." and path[:index] in known:
                    if path[index + 1 :] not in _OF_THE_BASE:
                        found.add(path[:index])
                    break
    return frozenset(found)
