"""A base model in a checkpoint directory, as `save_pretrained` writes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from motet.engine.base.end_tokens import read_end_tokens
from motet.engine.base.progress import Progress
from motet.engine.base.quiet import without_progress_bars
from motet.engine.base.safe_config import build_config, read_raw_config
from motet.engine.base.source import LoadedCheckpoint
from motet.engine.base.stamp import stamp_files
from motet.engine.base.tokenizer_files import TOKENIZER_FILES, copy_inert, load_tokenizer
from motet.engine.base.weight_files import find_weight_files, open_tensors
from motet.errors import UnsupportedModel


class DirectorySource:
    """A directory with config.json, safetensors weights (single or sharded) and a tokenizer."""

    def __init__(self, directory: Path, *, name: str | None = None) -> None:
        self._directory = directory
        self.name = name or directory.resolve().name
        self.description = f"checkpoint directory {self.name}"

    def identity(self) -> str:
        read_raw_config(self._directory)  # first, because it knows what a wrong directory is
        files = {self._directory / "config.json", self._directory / "generation_config.json"}
        files.update(find_weight_files(self._directory))
        for pattern in TOKENIZER_FILES:
            files.update(self._directory.glob(pattern))
        return stamp_files(sorted(file for file in files if file.is_file()))

    def load(self, scratch: Path, progress: Progress) -> LoadedCheckpoint:
        raw = read_raw_config(self._directory)
        config = build_config(raw)
        quantization = _accepted_quantization(raw.get("quantization_config"))
        tensors = open_tensors(find_weight_files(self._directory))
        tokenizer = load_tokenizer(copy_inert(self._directory, scratch / "tokenizer", raw))
        progress("Reading the weights", 0.0)
        model = _load_model(config, tensors, quantization)
        return LoadedCheckpoint(model, tokenizer, read_end_tokens(self._directory))

    def tensor(self, name: str) -> Tensor | None:
        found = open_tensors(find_weight_files(self._directory)).get(name)
        tensor: Tensor | None = None if found is None else found[:]
        return tensor if tensor is not None and tensor.is_floating_point() else None


def _accepted_quantization(raw: Any) -> BitsAndBytesConfig | None:
    """What to tell transformers about quantised weights; None for an ordinary checkpoint.

    Only what changes the reading of the files is taken from the checkpoint's own settings.
    """
    if raw is None:
        return None
    method = raw.get("quant_method", "bitsandbytes") if isinstance(raw, dict) else "unknown"
    if method != "bitsandbytes":
        raise UnsupportedModel(
            f"This checkpoint is quantised with {method}. Motet serves NF4: give the unquantised "
            "checkpoint, or one that bitsandbytes quantised to nf4."
        )
    if not raw.get("load_in_4bit") or raw.get("bnb_4bit_quant_type") != "nf4":
        kind = raw.get("bnb_4bit_quant_type", "fp4") if raw.get("load_in_4bit") else "int8"
        raise UnsupportedModel(
            f"This checkpoint is quantised to bitsandbytes {kind}. Motet serves NF4: give the "
            'unquantised checkpoint, or one saved with bnb_4bit_quant_type="nf4".'
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=bool(raw.get("bnb_4bit_use_double_quant", False)),
        bnb_4bit_quant_storage=raw.get("bnb_4bit_quant_storage") or "uint8",
        llm_int8_skip_modules=raw.get("llm_int8_skip_modules"),
    )


def _load_model(
    config: PreTrainedConfig,
    tensors: Mapping[str, Any],
    quantization: BitsAndBytesConfig | None,
) -> PreTrainedModel:
    """The model with its weights in bf16. transformers sees a config of its own class and tensors,
    never the directory: so no file of it can name code, an adapter or a pickle to be opened."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        raise UnsupportedModel(
            f"A model of type {config.model_type!r} does not generate text. Choose a causal "
            "language model."
        )
    if quantization is not None:
        config.quantization_config = quantization.to_dict()
    try:
        with without_progress_bars():
            model, loading = model_class.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.bfloat16,
                device_map={"": "cpu"} if quantization is not None else None,
                output_loading_info=True,
            )
    except RuntimeError as error:
        raise UnsupportedModel(
            f"The weights do not fit config.json ({error}). Fetch the checkpoint again."
        ) from None
    refuse_incomplete(loading)
    return model


def refuse_incomplete(loading: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel for a load after which transformers made up weights of its own."""
    for kind, verb in (("missing_keys", "lacks"), ("mismatched_keys", "has the wrong shape for")):
        names = sorted(str(name) for name in loading.get(kind, ()))
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UnsupportedModel(
                f"The checkpoint {verb} {', '.join(names[:3])}{more}. Fetch the checkpoint again."
            )
