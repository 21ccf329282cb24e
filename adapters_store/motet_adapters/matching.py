"""Every tensor of an upload lands on a module and every targeted module is matched, or neither."""

from collections.abc import Mapping
from typing import NamedTuple

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config import LoraSettings
from motet_adapters.errors import AdapterRefused
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.key_hints import KEY_PREFIX, explain
from motet_adapters.names import listed, quoted
from motet_adapters.safetensors_file import StoredTensor
from motet_adapters.targets import targeted, unknown_names

_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


class Match(NamedTuple):
    """One targeted module and the names of its tensors in the file."""

    module: str
    rank: int
    scale: float  # alpha / r or alpha / sqrt(r), to be folded into B
    in_features: int
    out_features: int
    a: str
    b: str
    magnitude: str | None  # DoRA only


def match(
    settings: LoraSettings, tensors: Mapping[str, StoredTensor], base: BaseWeights
) -> list[Match]:
    """In the base's order. Raises AdapterRefused with the names that don't fit."""
    matches = [_match(settings, tensors, base, module) for module in _modules(settings, base)]
    expected = {name for found in matches for name in _names(found)}
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise AdapterRefused(explain(extra, settings.use_dora), WEIGHTS_FILE)
    missing = [name for found in matches for name in _names(found) if name not in tensors]
    if missing:
        raise AdapterRefused(
            f"{len(missing)} tensors that the config calls for are missing: {listed(missing)}. "
            "Correct target_modules (or layers_to_transform, exclude_modules, use_dora) to what "
            "was trained, or upload the whole file.",
            WEIGHTS_FILE,
        )
    for found in matches:
        _require_shapes(found, tensors)
    return matches


def projections(matches: list[Match]) -> dict[str, int]:
    """Projection name -> number of modules: {"q_proj": 30, ...}."""
    counts: dict[str, int] = {}
    for found in matches:
        name = found.module.rpartition(".")[2]
        counts[name] = counts.get(name, 0) + 1
    return counts


def _modules(settings: LoraSettings, base: BaseWeights) -> list[str]:
    unknown = unknown_names(settings.targets, base.modules())
    if unknown:
        raise AdapterRefused(
            f"target_modules names what is no linear layer of the base: {listed(unknown)}. "
            "Embeddings and lm_head can't be adapted. Train without them, or serve the base the "
            "adapter was trained on.",
            "target_modules",
        )
    modules = targeted(settings.targets, base.modules())
    if not modules:
        raise AdapterRefused(
            "No module of the base is targeted: exclude_modules or layers_to_transform leaves "
            "none. Correct them to what was trained.",
            "target_modules",
        )
    return modules


def _match(
    settings: LoraSettings, tensors: Mapping[str, StoredTensor], base: BaseWeights, module: str
) -> Match:
    out_features, in_features = base.shape(module)
    magnitude = None
    if settings.use_dora:
        magnitude = f"{KEY_PREFIX}{module}{_MAGNITUDE}"
        # PEFT writes the short name and loads both.
        if magnitude not in tensors and f"{magnitude}.weight" in tensors:
            magnitude += ".weight"
    rank = settings.rank_of(module)
    return Match(
        module,
        rank,
        settings.scale_of(module, rank),
        in_features,
        out_features,
        f"{KEY_PREFIX}{module}{_A}",
        f"{KEY_PREFIX}{module}{_B}",
        magnitude,
    )


def _names(found: Match) -> tuple[str, ...]:
    return (found.a, found.b) if found.magnitude is None else (found.a, found.b, found.magnitude)


def _require_shapes(found: Match, tensors: Mapping[str, StoredTensor]) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        found.a: (found.rank, found.in_features),
        found.b: (found.out_features, found.rank),
    }
    if found.magnitude is not None:
        shapes[found.magnitude] = (found.out_features,)
    for name, shape in shapes.items():
        actual = tensors[name].shape
        if actual != shape:
            raise AdapterRefused(
                f"Tensor {quoted(name, 200)} has shape {list(actual)}; rank {found.rank} from the "
                f"config on this base needs {list(shape)}. Correct r or rank_pattern, or serve "
                "the base the adapter was trained on.",
                WEIGHTS_FILE,
            )
