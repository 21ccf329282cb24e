"""A quantised base as a directory of files."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from motet_kernels.nf4 import Nf4Weight
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from motet.engine.base.end_tokens import write_end_tokens
from motet.engine.base.source import LoadedCheckpoint

LINEARS_FILE = "linears.safetensors"
DENSE_FILE = "dense.safetensors"
CODES = ".codes"
ABSMAX = ".absmax"

# Where a config was read and by which release says nothing about what the model computes.
_CONFIG_NOISE = frozenset(
    {"_name_or_path", "name_or_path", "transformers_version", "architectures"}
)


def save_base(
    directory: Path, loaded: LoadedCheckpoint, weights: Mapping[str, Nf4Weight], description: str
) -> dict[str, Any]:
    """Writes everything but the manifest into `directory`, and returns what the manifest tells."""
    model = loaded.model
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    dense, tied = dense_tensors(model)
    linears: dict[str, Tensor] = {}
    for path, weight in weights.items():
        linears[path + CODES] = weight.codes.contiguous()
        linears[path + ABSMAX] = weight.absmax.contiguous()
    for name, tensors in ((LINEARS_FILE, linears), (DENSE_FILE, dense)):
        save_file(tensors, directory / name)
        # safetensors makes files only their owner may read; who may read a base is decided by the
        # directory it is kept in.
        (directory / name).chmod(0o644)
    model.config.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
    write_end_tokens(directory, loaded.end_tokens)
    return {
        "source": description,
        "fingerprint": _fingerprint(model.config, {**linears, **dense}),
        "linears": {path: list(weight.shape) for path, weight in weights.items()},
        "tied": tied,
    }


def dense_tensors(model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every parameter and persistent buffer that is not a quantised weight, each once; and for the
    names that share another's tensor (a tied output head), the name of that other."""
    dense: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first_name: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            continue
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in first_name:
            tied[name] = first_name[place]
            continue
        first_name[place] = name
        dense[name] = tensor.detach().contiguous()
    return dense, tied


def _fingerprint(config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the configuration and every tensor's name, dtype, shape and bytes."""
    described = {k: v for k, v in config.to_dict().items() if k not in _CONFIG_NOISE}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Returns once the file or directory at `path` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
