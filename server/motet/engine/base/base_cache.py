"""Quantised bases on disk: each built once, complete or not there at all."""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers

from motet.engine.base.saving import sync

_FORMAT = 1
_MANIFEST = "manifest.json"
_BUILDING = ".building-"


def cache_key(identity: str, *, double_quant: bool) -> str:
    """The directory name of a base. Names of modules and tensors may change between releases of
    transformers, so its version is a part of it."""
    parts = [str(_FORMAT), transformers.__version__, str(double_quant), identity]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


class BaseCache:
    """`root`/KEY/ holds one base: its files, and manifest.json, which names their sizes and
    digests and is written last."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, key: str) -> dict[str, Any] | None:
        """The manifest of an intact base; None when there is none or its files are damaged."""
        try:
            manifest = json.loads((self._root / key / _MANIFEST).read_text(encoding="utf-8"))
            files = manifest["files"]
            intact = manifest["format"] == _FORMAT and all(
                _intact(self._root / key / name, entry) for name, entry in files.items()
            )
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return dict(manifest) if intact else None

    def directory(self, key: str) -> Path:
        return self._root / key

    def build(self, key: str, write: Callable[[Path, Path], dict[str, Any]]) -> dict[str, Any]:
        """The manifest of the base under `key`, built by `write` unless another process just did.

        `write` is given the directory to fill and a scratch directory, and returns what the
        manifest shall tell. Whatever it raises is passed on, and nothing is left behind.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with self._lock():
            self._remove_abandoned()
            manifest = self.find(key)
            if manifest is None:
                manifest = self._build_locked(key, write)
            return manifest

    def _build_locked(
        self, key: str, write: Callable[[Path, Path], dict[str, Any]]
    ) -> dict[str, Any]:
        work = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self._root))
        try:
            made, scratch = work / "made", work / "scratch"
            made.mkdir()
            scratch.mkdir()
            manifest = {"format": _FORMAT, **write(made, scratch)}
            manifest["files"] = {
                str(path.relative_to(made)): _entry(path)
                for path in sorted(made.rglob("*"))
                if path.is_file()
            }
            (made / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for path in [*made.rglob("*"), made]:
                sync(path)
            target = self._root / key
            if target.exists():  # damaged, or find() would have taken it
                target.rename(work / "damaged")
            made.rename(target)
            sync(self._root)
            return manifest
        finally:
            shutil.rmtree(work)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One builder at a time over all processes; given up by the system when one dies."""
        with (self._root / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remove_abandoned(self) -> None:
        for work in self._root.glob(_BUILDING + "*"):
            shutil.rmtree(work)


def _entry(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": _sha256(path)}


def _intact(path: Path, entry: dict[str, Any]) -> bool:
    """A file of the recorded size that was not written to since, or was but to the same bytes."""
    stat = path.stat()
    if stat.st_size != entry["bytes"]:
        return False
    return bool(stat.st_mtime_ns == entry["mtime_ns"] or _sha256(path) == entry["sha256"])


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
