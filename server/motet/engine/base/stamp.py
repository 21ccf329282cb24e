"""Telling cheaply whether files are still the ones seen before."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_SAMPLE_BYTES = 64 * 1024


def stamp_files(files: Iterable[Path]) -> str:
    """A sha256 over the paths, sizes, modification times and first and last 64 KiB of `files`.

    The samples are there for places where every file has the same modification time, such as a
    container image: the head of a safetensors file alone holds all names and shapes.
    """
    digest = hashlib.sha256()
    for file in files:
        path = file.resolve()
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(_SAMPLE_BYTES))
            stream.seek(max(0, stat.st_size - _SAMPLE_BYTES))
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()
