"""The store's directory. Every name in it is a digest or random; none comes from a user.

database-id                which database says what here is named and what is left over
lock                       held while a process has the store open
motet.sqlite3              tenant and name -> digest, unless the server's database holds them
sources/DIGEST/            the two uploaded files
images/DIGEST.TAG          derived; TAG stands for base and dtype
bases/DIGEST.TAG           derived; tensors that several images need
needs/DIGEST.TAG           the bases that an adapter's image needs, one digest a line
staging/RANDOM/            uploads on their way in; emptied at every start
"""

import fcntl
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch

from motet_adapters.durable import rename, sync_directory, sync_file, write_text
from motet_adapters.errors import StoreUnusable
from motet_adapters.source import Source


class Disk:
    """Placing and removing. The store's writer lock serialises all but the path properties."""

    def __init__(self, root: Path, fingerprint: str, dtype: torch.dtype) -> None:
        self.staging = root / "staging"
        self._sources = root / "sources"
        self._images = root / "images"
        self._bases = root / "bases"
        self._needs = root / "needs"
        self._tag = hashlib.sha256(f"{fingerprint} {dtype}".encode()).hexdigest()[:16]
        self._database_id = root / "database-id"
        self.database = root / "motet.sqlite3"
        self.old_registry = root / "registry.sqlite3"  # of Motet 0.1
        for directory in (
            self.staging,
            self._sources,
            self._images,
            self._bases,
            self._needs,
        ):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What is placed in them later is only as durable as they are.
        sync_directory(root)
        sync_directory(root.parent)
        self._lock: int | None = _locked(root / "lock")

    def source(self, digest: str) -> Source:
        return Source(self._sources / digest, digest)

    def image_path(self, digest: str) -> Path:
        return self._images / f"{digest}.{self._tag}"

    def basis_path(self, digest: str) -> Path:
        return self._bases / f"{digest}.{self._tag}"

    def has_image_of_its_own(self, digest: str) -> bool:
        """Whether its image for this base is there and needs nothing else."""
        return self.image_path(digest).exists() and not self._needs_path(digest).exists()

    def needed_bases(self) -> dict[str, frozenset[str]]:
        """Adapter's digest -> digests of the bases that its image needs, of those that need any."""
        return {
            path.name.removesuffix(f".{self._tag}"): frozenset(path.read_text("ascii").split())
            for path in self._needs.glob(f"*.{self._tag}")
        }

    def belong_to(self, database_id: str, *, names_any: bool) -> None:
        """Remember the database whose word `sweep` will take, durably.

        Raises StoreUnusable if another one was remembered, or none and what lies here can't be
        this one's: sweeping would then lose adapters.
        """
        try:
            known = self._database_id.read_text(encoding="ascii")
        except FileNotFoundError:
            known = "" if any(self._sources.iterdir()) and not names_any else database_id
            if known:
                self._remember(known)
        if known != database_id:
            raise StoreUnusable(
                "The adapters stored in this directory belong to another database. Use that one, "
                "or move the directory away to begin with none."
            )

    def _remember(self, database_id: str) -> None:
        path = self.staging / "database-id"
        write_text(path, database_id)
        rename(path, self._database_id)

    def sweep(self, live: set[str]) -> None:
        """Remove what a crash left behind, what no name holds, and images of another base."""
        for path in self.staging.iterdir():
            _remove(path)
        for path in self._sources.iterdir():
            if path.name not in live:
                _remove(path)
        for path in (*self._images.iterdir(), *self._needs.iterdir()):
            digest, _, tag = path.name.partition(".")
            if digest not in live or tag != self._tag:
                _remove(path)
        needed = self._all_needed()
        for path in self._bases.iterdir():
            digest, _, tag = path.name.partition(".")
            if digest not in needed or tag != self._tag:
                _remove(path)

    def place_source(self, source: Source, *, replace: bool) -> None:
        """Rename a finished source into place, durably. One that is there is kept or replaced."""
        target = self.source(source.digest).directory
        if target.exists():
            if not replace:
                return
            target.rename(source.directory.with_name("damaged"))
        rename(source.directory, target)

    def restore_source(self, source: Source, digest: str) -> None:
        """Put good files in place of missing or damaged ones, durably."""
        for path in (source.config_path, source.weights_path):
            sync_file(path)
        sync_directory(source.directory)
        self.place_source(Source(source.directory, digest), replace=True)

    def place_image(self, path: Path, digest: str) -> None:
        """Rename a written image into place, durably, after the bases written beside it."""
        for basis in sorted(path.parent.glob(f"{path.name}.basis.*")):
            rename(basis, self.basis_path(basis.suffix.removeprefix(".")))
        needs = path.with_name(f"{path.name}.needs")
        if needs.exists():
            rename(needs, self._needs_path(digest))
        rename(path, self.image_path(digest))

    def remove(self, digest: str) -> None:
        """Remove source, image and bases that no other image needs. What can't be removed now goes
        at the next start."""
        _remove(self.image_path(digest))
        needs = self._needs_path(digest)
        if needs.exists():
            freed = set(needs.read_text("ascii").split())
            _remove(needs)
            for basis in freed - self._all_needed():
                _remove(self.basis_path(basis))
        _remove(self.source(digest).directory)

    def _needs_path(self, digest: str) -> Path:
        return self._needs / f"{digest}.{self._tag}"

    def _all_needed(self) -> set[str]:
        return {basis for bases in self.needed_bases().values() for basis in bases}

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreUnusable(
            "Another process has this adapter store open. Stop it, or give this one another "
            "directory."
        ) from error
    return descriptor


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
