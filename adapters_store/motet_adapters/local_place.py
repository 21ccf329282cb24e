"""A file system that several servers share the uploaded files on, written as durably as our own.

fsspec copies straight into place: a server that is killed in the middle, or one that reads
meanwhile, would find a part of a file.
"""

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from motet_adapters.durable import (
    refusing_when_full,
    rename,
    sync_directory,
    sync_file,
    write_text,
)


class LocalPlace:
    """Files under `root`, each written into `root`/incoming first. Raises OSError, StoreFull."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"

    def put(self, path: Path, target: Path) -> None:
        """Copy a file to `target` under the root, in place of any that is there, durably."""
        self._write(target, lambda coming: shutil.copyfile(path, coming))

    def write(self, text: str, target: Path) -> None:
        """As `put`, of an ASCII text."""
        self._write(target, lambda coming: write_text(coming, text))

    def sweep(self, oldest: float) -> None:
        """Remove what was left on its way in before `oldest`, unix seconds."""
        if not self._incoming.is_dir():
            return
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):  # it has arrived
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _write(self, target: Path, fill: Callable[[Path], object]) -> None:
        coming = self._incoming / secrets.token_hex(16)
        with refusing_when_full():
            for directory in (self._incoming, target.parent):
                self._make(directory)
            try:
                fill(coming)
                sync_file(coming)
                rename(coming, target)
            finally:
                coming.unlink(missing_ok=True)

    def _make(self, directory: Path) -> None:
        """With its parents, durably."""
        if directory.is_dir():
            return
        if directory.parent != directory:
            self._make(directory.parent)
        directory.mkdir(mode=0o777, exist_ok=True)
        sync_directory(directory.parent)
