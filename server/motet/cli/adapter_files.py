"""The two files of a PEFT adapter in a directory."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from motet.errors import MotetError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_CHUNK_BYTES = 1 << 20


class NoAdapterHere(MotetError):
    """The directory does not hold an adapter that could be uploaded."""


class AdapterFiles(NamedTuple):
    """Where the two files of one adapter are."""

    config: Path
    weights: Path

    @classmethod
    def find(cls, directory: Path) -> "AdapterFiles":
        """The files in `directory`. Raises NoAdapterHere, which says what is missing."""
        if not directory.is_dir():
            raise NoAdapterHere(f"{directory} is no directory; give the one PEFT saved to.")
        files = cls(directory / CONFIG, directory / WEIGHTS)
        missing = [path.name for path in files if not path.is_file()]
        if WEIGHTS in missing and (directory / _PICKLE).exists():
            raise NoAdapterHere(
                f"{directory} holds {_PICKLE}, a pickle, which can run code when it is opened. "
                "Save the adapter again with save_pretrained(DIR, safe_serialization=True)."
            )
        if missing:
            raise NoAdapterHere(
                f"{directory} has no {' and no '.join(missing)}; give the directory PEFT's "
                "save_pretrained wrote."
            )
        return files

    def num_bytes(self) -> int:
        """Of both together."""
        return sum(path.stat().st_size for path in self)

    def write_into(self, write: Callable[[str, bytes], None]) -> None:
        """Hands both files, piece by piece, to a store's staging."""
        for path in self:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    write(path.name, chunk)
