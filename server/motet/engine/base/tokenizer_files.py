"""A checkpoint's tokenizer, loaded from data files alone."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from motet.engine.base.safe_config import inert, read_object
from motet.errors import UnsupportedModel

TOKENIZER_FILES = (
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "chat_template.jinja",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def copy_inert(source: Path, directory: Path, config: dict[str, Any]) -> Path:
    """`directory`, filled with the tokenizer's files of `source` and a config.json of `config`,
    both without the keys that name code. transformers is never shown `source` itself."""
    directory.mkdir()
    for file in [file for pattern in TOKENIZER_FILES for file in source.glob(pattern)]:
        target = directory / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    settings = directory / "tokenizer_config.json"
    if settings.exists():
        settings.write_text(json.dumps(inert(read_object(settings))))
    (directory / "config.json").write_text(json.dumps(inert(config)))
    return directory


def load_tokenizer(directory: Path, **kwargs: str) -> PreTrainedTokenizerFast:
    """The tokenizer in `directory`. Raises UnsupportedModel when there is none that the Rust
    `tokenizers` library runs."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True, **kwargs
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UnsupportedModel(
            f"The checkpoint's tokenizer cannot be loaded from its files alone ({error}). Save it "
            "with `AutoTokenizer.from_pretrained(...).save_pretrained(DIR)` beside the weights."
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModel(
            f"The checkpoint's tokenizer ({type(tokenizer).__name__}) has no tokenizer.json form. "
            "Save it once with a fast tokenizer of transformers beside the weights."
        )
    return tokenizer
