"""A base model in a GGUF file."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GgufConfig

from motet.engine.base.directory_source import refuse_incomplete
from motet.engine.base.end_tokens import as_ids
from motet.engine.base.progress import Progress
from motet.engine.base.quiet import without_progress_bars
from motet.engine.base.source import LoadedCheckpoint
from motet.engine.base.stamp import stamp_files
from motet.engine.base.tokenizer_files import load_tokenizer
from motet.errors import UnsupportedModel


class GgufSource:
    """One .gguf file: weights of any GGUF type, tokenizer and chat template."""

    def __init__(self, file: Path, *, name: str | None = None) -> None:
        self._file = file
        self.name = name or file.stem
        self.description = f"GGUF file {file.name}"

    def identity(self) -> str:
        return stamp_files([self._file])

    def load(self, scratch: Path, progress: Progress) -> LoadedCheckpoint:
        # A directory that holds nothing else, so that no neighbour of the file is picked up.
        alone = scratch / "gguf"
        alone.mkdir()
        (alone / self._file.name).symlink_to(self._file.resolve())
        progress("Unpacking the GGUF file", 0.0)
        try:
            with without_progress_bars():
                model, loading = AutoModelForCausalLM.from_pretrained(
                    alone,
                    gguf_file=self._file.name,
                    dtype=torch.bfloat16,
                    quantization_config=GgufConfig(dequantize=True),
                    trust_remote_code=False,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (ValueError, KeyError, OSError, RuntimeError, NotImplementedError) as error:
            raise UnsupportedModel(
                f"transformers cannot read {self._file.name} ({error}). Give the model's "
                "safetensors checkpoint instead."
            ) from None
        refuse_incomplete(loading)
        tokenizer = load_tokenizer(alone, gguf_file=self._file.name)
        return LoadedCheckpoint(model, tokenizer, as_ids(model.config.eos_token_id))

    def tensor(self, name: str) -> Tensor | None:
        """None: GGUF's names and formats are its own, and only the whole file is converted."""
        return None
