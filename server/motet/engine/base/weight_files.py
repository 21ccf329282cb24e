"""The safetensors files of a checkpoint directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from motet.engine.base.tensor_file import TensorFile
from motet.errors import UnsupportedModel

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.distcp")


def find_weight_files(directory: Path) -> list[Path]:
    """The safetensors files that hold the checkpoint, in order of name.

    Raises UnsupportedModel when there are none, when one is missing, or when the index names a file
    outside the directory.
    """
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    if not (directory / _INDEX).is_file():
        raise UnsupportedModel(_no_weights(directory))
    files = [directory / name for name in shard_names(directory / _INDEX)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UnsupportedModel(
            f"{directory} lacks {', '.join(missing)}, which its {_INDEX} names. "
            "Fetch the missing files."
        )
    return files


def shard_names(index: Path) -> list[str]:
    """The files a sharded checkpoint's index refers to. Raises UnsupportedModel for a bad index."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise UnsupportedModel(
            f"{index} is not an index of safetensors shards. Fetch the checkpoint again."
        ) from None
    for name in names:
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(_SINGLE[5:]):
            raise UnsupportedModel(
                f"{index} names {name!r}, which is not a safetensors file beside it. "
                "Fetch the checkpoint from a source you trust."
            )
    return names


def _no_weights(directory: Path) -> str:
    if any(file for pattern in _PICKLES for file in directory.glob(pattern)):
        return (
            f"{directory} holds its weights only as pickle files, which can run code when they are "
            "opened. Convert them once, on a machine where that does no harm: "
            'python -c "from transformers import AutoModelForCausalLM as M; '
            "M.from_pretrained('IN').save_pretrained('OUT')\" "
            "(and copy the tokenizer's files), then give OUT."
        )
    return f"{directory} has neither {_SINGLE} nor {_INDEX}. Give a complete checkpoint."


def open_tensors(files: list[Path]) -> Mapping[str, Any]:
    """Every tensor of `files` as a safetensors slice, read only when transformers asks for it.

    Raises UnsupportedModel when a file is truncated or is no safetensors file.
    """
    slices: dict[str, Any] = {}
    for file in files:
        try:
            tensors = TensorFile(file)
        except SafetensorError as error:
            raise UnsupportedModel(
                f"{file} is not a whole safetensors file ({error}). Fetch it again."
            ) from None
        slices.update({name: tensors.slice(name) for name in tensors})
    return slices
