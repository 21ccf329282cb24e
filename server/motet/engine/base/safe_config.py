"""A checkpoint's configuration, with everything that could run or fetch code left out."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig

from motet.errors import UnsupportedModel

# Keys by which a config.json names Python files, kernels to download, other weight files or a
# rewritten model. None of them describes the weights, so they are dropped rather than obeyed.
_ACTIVE_KEYS = frozenset(
    {
        "auto_map",
        "custom_generate",
        "custom_pipelines",
        "distributed_config",
        "fusion_config",
        "kernel_config",
        "transformers_weights",
        "use_kernels",
    }
)


def read_raw_config(directory: Path) -> dict[str, Any]:
    """config.json as data. Raises UnsupportedModel when it is missing or no JSON object."""
    path = directory / "config.json"
    if not path.is_file():
        raise UnsupportedModel(_no_config(directory))
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint as data. Raises UnsupportedModel when it is no JSON object."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UnsupportedModel(
            f"{path} is not JSON ({error}). Fetch the checkpoint again."
        ) from None
    if not isinstance(raw, dict):
        raise UnsupportedModel(f"{path} is not a JSON object. Fetch the checkpoint again.")
    return raw


def _no_config(directory: Path) -> str:
    if (directory / "adapter_config.json").exists():
        return (
            f"{directory} is an adapter, not a base model. Start the server with the base it was "
            "trained on, then upload the adapter with `motet adapters push`."
        )
    return f"{directory} has no config.json. Give the directory `save_pretrained` wrote."


def build_config(raw: dict[str, Any]) -> PreTrainedConfig:
    """The transformers configuration `raw` describes, of a class transformers itself ships.

    A quantization_config is left out: what it means for the weights is the caller's business.
    Raises UnsupportedModel for a model type transformers does not know, because the only other
    way to run it would be code from the checkpoint.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UnsupportedModel(
            f"The model type {model_type!r} is not one transformers ships. Motet never runs code "
            "that comes with a checkpoint, so it cannot be served. Choose a base whose "
            "architecture is part of transformers."
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(inert(raw))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UnsupportedModel(
            f"transformers does not accept this config.json ({error}). Fetch the checkpoint again."
        ) from None


def inert(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` without the keys that name code, other files or an implementation to be fetched, and
    without quantization_config."""
    return {
        key: inert(value) if isinstance(value, dict) else value
        for key, value in raw.items()
        if key not in _ACTIVE_KEYS
        and key != "quantization_config"
        and not key.endswith(("_implementation", "_implementation_internal"))
    }
