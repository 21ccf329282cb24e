"""Writes that survive a power cut, and the one place that says what a full disk looks like.

The order is always: write into a temporary place, fsync the files and their directory, rename,
fsync the directory renamed into. A reader sees the old state or the new one, never a part.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from motet_adapters.errors import StoreFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def refusing_when_full() -> Iterator[None]:
    """Turn an error that means "no room" into StoreFull; let every other one through."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull from error
        raise


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of `data`: a single write may take only part of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_text(path: Path, text: str) -> None:
    """Write and fsync a new ASCII file, to be renamed into place."""
    with path.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable; fsync of a file says nothing about its name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the bytes of a file that somebody else wrote durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename and make the new name durable. `source`'s own contents must be synced already."""
    os.rename(source, target)
    sync_directory(target.parent)
