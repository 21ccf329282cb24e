"""A reader of safetensors files from strangers: everything is checked before a tensor is read.

Format: u64 little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, data.
Stricter than the safetensors library, which accepts duplicate names (the last one wins), absurd
shapes of zero size and headers of 100 MB.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from motet_adapters.errors import AdapterRefused
from motet_adapters.file_kinds import WEIGHTS_FILE, refuse_foreign_weights
from motet_adapters.json_document import parse_object
from motet_adapters.limits import Limits
from motet_adapters.names import quoted

_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    # Indices. Which tensors may hold them, the families say.
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
_MAX_DIMS = 4
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in the file: `num_bytes` from `offset`, counted from the file's start."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header. The file behind it must not change."""

    path: Path
    tensors: Mapping[str, StoredTensor]

    @classmethod
    def open(cls, path: Path, limits: Limits) -> "SafetensorsFile":
        """Read and check the header. Raises AdapterRefused."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            refuse_foreign_weights(file.read(64))
            file.seek(0)
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > limits.max_header_bytes:
                raise _damaged(f"its header claims {length} bytes")
            start = _LENGTH_BYTES + length
            if start > size:
                raise _damaged("its header ends after the file does")
            text = file.read(length)
        header = parse_object(text, f"The header of {WEIGHTS_FILE}", WEIGHTS_FILE)
        _require_notes(header.pop("__metadata__", {}))
        tensors = {name: _stored(name, field, start) for name, field in header.items()}
        _require_contiguous(tensors, start, size)
        return cls(path, tensors)

    def read(self, name: str) -> Tensor:
        """The tensor, in its stored dtype and shape. Raises AdapterRefused if the file shrank."""
        stored = self.tensors[name]
        if not stored.num_bytes:
            return torch.empty(stored.shape, dtype=stored.dtype)
        data = bytearray(stored.num_bytes)
        with self.path.open("rb", buffering=0) as file:
            file.seek(stored.offset)
            if _read_into(file.fileno(), memoryview(data)) != len(data):
                raise _damaged("it ends early")
        return torch.frombuffer(data, dtype=stored.dtype).view(stored.shape)


def _read_into(descriptor: int, target: memoryview) -> int:
    done = 0
    while done < len(target):
        count = os.readv(descriptor, [target[done:]])
        if not count:
            break
        done += count
    return done


def _require_notes(metadata: object) -> None:
    """Nothing reads them, but the library refuses a file in which they are anything but text."""
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise _damaged("its __metadata__ is not an object of strings")


def _stored(name: str, field: object, start: int) -> StoredTensor:
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"the header's entry {quoted(name)} is malformed")
    dtype, shape = field["dtype"], _naturals(field["shape"])
    offsets = _naturals(field["data_offsets"])
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(f"the header's entry {quoted(name)} is malformed")
    if dtype not in _DTYPES:
        raise AdapterRefused(
            f"Tensor {quoted(name)} has dtype {quoted(dtype)}. Save the adapter in float32, "
            "bfloat16 or float16.",
            WEIGHTS_FILE,
        )
    # A size of 0 is for the families to judge: AdaLoRA prunes some modules away.
    if not 1 <= len(shape) <= _MAX_DIMS:
        raise AdapterRefused(
            f"Tensor {quoted(name)} has shape {quoted(list(shape))}, which no adapter's tensor "
            "has. Save the adapter with PEFT's model.save_pretrained.",
            WEIGHTS_FILE,
        )
    num_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != num_bytes:
        raise _damaged(f"the size of {quoted(name)} does not follow from its shape and dtype")
    return StoredTensor(_DTYPES[dtype], shape, start + offsets[0], num_bytes)


def _naturals(value: object) -> tuple[int, ...] | None:
    # bool is an int to Python, but not to anybody else who reads this header.
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        return None
    return tuple(value)


def _require_contiguous(tensors: Mapping[str, StoredTensor], start: int, size: int) -> None:
    end = start
    for tensor in sorted(tensors.values(), key=lambda one: (one.offset, one.num_bytes)):
        if tensor.offset != end:
            raise _damaged("its tensors overlap or leave gaps")
        end = tensor.offset + tensor.num_bytes
    if end > size:
        raise _damaged(f"it ends {end - size} bytes early")
    if end < size:
        raise _damaged(f"{size - end} bytes follow its last tensor")


def _damaged(reason: str) -> AdapterRefused:
    return AdapterRefused(
        f"{WEIGHTS_FILE} is not a whole safetensors file: {reason}. Upload the file again as "
        "PEFT's save_pretrained wrote it.",
        WEIGHTS_FILE,
    )
