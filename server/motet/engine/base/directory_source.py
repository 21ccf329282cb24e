"""A base model in a checkpoint directory, as `save_pretrained` writes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from motet.engine.base.progress import Progress
from motet.engine.base.safe_config import build_config, read_raw_config
from motet.engine.base.source import LoadedCheckpoint
from motet.engine.base.stamp import stamp_files
from motet.engine.base.weight_files import find_weight_files, open_tensors
from motet.errors import UnsupportedModel

_TOKENIZER_FILES = (
    "tokenizer*",
    "*.jinja",
    "vocab*",
    "merges*",
    "special_tokens*",
    "added_tokens*",
)


class DirectorySource:
    """A directory with config.json, safetensors weights (single or sharded) and a tokenizer."""

    def __init__(self, directory: Path, *, name: str | None = None) -> None:
        self._directory = directory
        self.name = name or directory.resolve().name
        self.description = f"checkpoint directory {self.name}"

    def identity(self) -> str:
        files = {self._directory / "config.json", self._directory / "generation_config.json"}
        files.update(find_weight_files(self._directory))
        for pattern in _TOKENIZER_FILES:
            files.update(self._directory.glob(pattern))
        return stamp_files(sorted(file for file in files if file.is_file()))

    def load(self, scratch: Path, progress: Progress) -> LoadedCheckpoint:
        raw = read_raw_config(self._directory)
        config = build_config(raw)
        quantization = _accepted_quantization(raw.get("quantization_config"))
        tensors = open_tensors(find_weight_files(self._directory))
        tokenizer = load_tokenizer(self._directory)
        progress("reading the weights", 0.0)
        model = _load_model(config, tensors, quantization)
        _take_end_tokens(model, self._directory / "generation_config.json")
        return LoadedCheckpoint(model, tokenizer)


def load_tokenizer(directory: Path, **kwargs: str) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, from files alone. Raises UnsupportedModel when there is none."""
    try:
        return AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True, **kwargs
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UnsupportedModel(
            f"The tokenizer of {directory.name} cannot be loaded without running code from the "
            f"checkpoint or fetching more files ({error}). Save it with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(DIR)` beside the weights."
        ) from None


def _take_end_tokens(model: PreTrainedModel, file: Path) -> None:
    """Chat models name the tokens that end a turn here, and often nowhere else. The rest of the
    file (sampling defaults, a custom generation loop) is not for a server to obey."""
    if not file.is_file() or model.generation_config is None:
        return
    try:
        ids = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise UnsupportedModel(
            f"{file} is not a JSON object ({error}). Fetch the checkpoint again."
        ) from None
    found = [ids] if isinstance(ids, int) else ids
    if isinstance(found, list) and all(isinstance(token, int) for token in found):
        model.generation_config.eos_token_id = found


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
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
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
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
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
