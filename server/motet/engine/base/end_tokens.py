"""The tokens that end an answer, as a checkpoint's generation_config.json names them."""

import json
from pathlib import Path

from motet.engine.base.safe_config import read_object

_FILE = "generation_config.json"


def read_end_tokens(directory: Path) -> list[int]:
    """The end tokens of a checkpoint; none when it names none.

    Chat models name the tokens that end a turn here, and often nowhere else. The rest of the file
    (sampling defaults, a generation loop of its own) is not for a server to obey. Raises
    UnsupportedModel when the file is damaged.
    """
    file = directory / _FILE
    return as_ids(read_object(file).get("eos_token_id")) if file.is_file() else []


def as_ids(value: object) -> list[int]:
    """eos_token_id in any of the forms transformers allows: nothing, one id, several."""
    values = value if isinstance(value, list) else [value]
    return [token for token in values if isinstance(token, int) and not isinstance(token, bool)]


def write_end_tokens(directory: Path, ids: list[int]) -> None:
    """The inverse of `read_end_tokens`."""
    (directory / _FILE).write_text(json.dumps({"eos_token_id": ids}), encoding="utf-8")
