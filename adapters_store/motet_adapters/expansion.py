"""target_modules given as a regular expression: never run, but what it stands for can be told.

The tensors of the file say which modules were trained, so the list to write is known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from motet_adapters.errors import AdapterRefused
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.names import listed, quoted
from motet_adapters.targets import TargetSpec, layer_of, targeted

_A = ".lora_A.weight"
_NAMES_SHOWN = 500  # characters


def refuse_expression(
    targets: TargetSpec, tensors: Iterable[str], modules: Sequence[str]
) -> AdapterRefused:
    """The refusal, with the keys to write instead."""
    trained = {
        name.removeprefix(KEY_PREFIX).removesuffix(_A)
        for name in tensors
        if name.startswith(KEY_PREFIX) and name.endswith(_A)
    }
    return AdapterRefused(
        f"target_modules is the regular expression {quoted(targets.expression)}; expressions "
        f"from uploads are never run. {_fix(trained, targets.exclude, modules)}",
        "target_modules",
    )


def _fix(trained: set[str], exclude: tuple[str, ...], modules: Sequence[str]) -> str:
    if not trained or not trained <= set(modules):
        return "Use the list of module names it stands for."
    names = tuple(sorted({module.rpartition(".")[2] for module in trained}))
    by_name = TargetSpec(names=names, exclude=exclude)
    if set(targeted(by_name, modules)) == trained:
        return f"Use the list it stands for: {quoted(list(names), _NAMES_SHOWN)}."
    layers = {layer for module in trained if (layer := layer_of(module)) is not None}
    by_layer = replace(by_name, layers=frozenset(layers))
    if set(targeted(by_layer, modules)) == trained:
        return (
            f"Use the list it stands for: {quoted(list(names), _NAMES_SHOWN)}, with "
            f"layers_to_transform {quoted(sorted(layers), _NAMES_SHOWN)}."
        )
    return f"Use the list of the {len(trained)} paths it stands for: {listed(sorted(trained))}."
