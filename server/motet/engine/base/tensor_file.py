"""A safetensors file as a mapping."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file on the CPU, each read when it is asked for.

    May be read from several threads. Raises safetensors.SafetensorError on opening when the file
    is truncated or is none.
    """

    def __init__(self, file: Path) -> None:
        opened: Any = safe_open(file, framework="pt", device="cpu")  # its stubs have no types
        self._handle = opened
        self._names: dict[str, None] = dict.fromkeys(opened.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor

    def slice(self, name: str) -> Any:
        """The tensor unread, in the form transformers reads its own checkpoints from."""
        return self._handle.get_slice(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
