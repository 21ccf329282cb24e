"""An image on disk: a small header, then the buffer, both under a checksum.

    magic (8) | header length u64 | SHA-256 of header (32) | header JSON | zeros to 64 | buffer

The header names the base, digest and dtype the image was made for and the SHA-256 of the buffer.
A file that is torn, rotten or made for something else is noticed and never used; an image is
derived data, so the answer is always to remake it from the source.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from motet_kernels import Activation
from torch import Tensor

from motet_adapters.durable import write_all
from motet_adapters.image import ALIGNMENT, Entry, Image, Part, aligned

_MAGIC = b"MOTETIM2"
_PREAMBLE = 48
_MAX_HEADER_BYTES = 64 << 20


class ImageDamaged(Exception):
    """The file isn't the whole and unchanged image that was asked for."""


def write_image(path: Path, image: Image, fingerprint: str) -> None:
    """Write and fsync a new file at `path`. The caller renames it into place."""
    buffer = image.buffer.numpy().data
    header = json.dumps(
        {
            "base": fingerprint,
            "digest": image.digest,
            "dtype": _name(image.dtype),
            "num_bytes": image.num_bytes,
            "sha256": hashlib.sha256(buffer).hexdigest(),
            "entries": {path: _told(entry) for path, entry in image.entries.items()},
        }
    ).encode()
    start = _PREAMBLE + len(header)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, _MAGIC + len(header).to_bytes(8, "little"))
        write_all(descriptor, hashlib.sha256(header).digest() + header)
        write_all(descriptor, bytes(aligned(start, ALIGNMENT) - start))
        write_all(descriptor, buffer)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_image(
    path: Path, *, digest: str, fingerprint: str, dtype: torch.dtype, pin_memory: bool
) -> Image:
    """One read of the buffer into fresh host memory.

    Raises FileNotFoundError, and ImageDamaged for every file that `write_image` did not write
    for this base, digest and dtype.
    """
    with path.open("rb", buffering=0) as file:
        header = _read_header(file.fileno())
        made_for = (header.get("base"), header.get("digest"), header.get("dtype"))
        if made_for != (fingerprint, digest, _name(dtype)):
            raise ImageDamaged("made for another base, adapter or dtype")
        entries = {path: _entry(*fields) for path, fields in header["entries"].items()}
        buffer = torch.empty(header["num_bytes"], dtype=torch.uint8, pin_memory=pin_memory)
        _fill(file.fileno(), buffer)
    if hashlib.sha256(buffer.numpy().data).hexdigest() != header["sha256"]:
        raise ImageDamaged("the buffer does not match its checksum")
    return Image(digest, dtype, buffer, entries)


def _read_header(descriptor: int) -> dict[str, Any]:
    preamble = os.read(descriptor, _PREAMBLE)
    length = int.from_bytes(preamble[8:16], "little")
    if len(preamble) != _PREAMBLE or preamble[:8] != _MAGIC or length > _MAX_HEADER_BYTES:
        raise ImageDamaged("not an image")
    header = os.read(descriptor, length)
    if hashlib.sha256(header).digest() != preamble[16:]:
        raise ImageDamaged("the header does not match its checksum")
    os.lseek(descriptor, aligned(_PREAMBLE + length, ALIGNMENT), os.SEEK_SET)
    # Its checksum holds, so this is what `write_image` wrote.
    values: dict[str, Any] = json.loads(header)
    return values


def _fill(descriptor: int, buffer: Tensor) -> None:
    left = buffer.numpy().data
    while left:
        count = os.readv(descriptor, [left])
        if not count:
            raise ImageDamaged("the file ends early")
        left = left[count:]


def _told(entry: Entry) -> list[Any]:
    parts = {name: [_name(part.dtype), *part[1:]] for name, part in entry.parts.items()}
    return [parts, entry.activation, entry.bases]


def _entry(parts: dict[str, Any], activation: Activation, bases: dict[str, Any]) -> Entry:
    return Entry(
        {
            name: Part(getattr(torch, dtype), tuple(shape), offset)
            for name, (dtype, shape, offset) in parts.items()
        },
        activation,
        {name: (digest, tensor) for name, (digest, tensor) in bases.items()},
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
