"""The store of uploaded files that several servers share: S3, or any other fsspec file system.

    URL/database-id                 which database names what is here
    URL/sources/DIGEST/             the two uploaded files
    URL/incoming/RANDOM             a file on its way in; only on a file system (see local_place.py)

A server's own `sources/` is then a cache of it. Order of writing: both objects here, then the row
that names them, so that every digest a server reads in the database can be fetched.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from motet_adapters.errors import AdapterError, BlobsUnavailable, StoreUnusable
from motet_adapters.file_kinds import CONFIG_FILE, WEIGHTS_FILE
from motet_adapters.local_place import LocalPlace
from motet_adapters.source import Source

_FILES = (CONFIG_FILE, WEIGHTS_FILE)
GRACE_S = 600.0
"""Age under which an object that no version names is kept: its row may be about to be committed."""

_log = logging.getLogger(__name__)


class Origin:
    """Safe to use from any thread. Every method raises BlobsUnavailable where it says nothing
    else."""

    def __init__(self, url: str) -> None:
        """Raises StoreUnusable for a URL that fsspec can't open."""
        try:
            # Other servers write here: what a listing said a moment ago may not be so any more.
            fs, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise StoreUnusable(
                f"blob_url can't be opened ({error}). Give file:///DIRECTORY or s3://BUCKET/PREFIX "
                "and install what it needs (pip install motet[s3])."
            ) from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")
        # Object stores have no directories to make, and making one could make a bucket; and what is
        # put there is there as a whole or not at all.
        is_local = "file" in _protocols(fs)
        self._local = LocalPlace(Path(self._root)) if is_local else None

    def belong_to(self, database_id: str, *, names_any: bool) -> None:
        """As `Disk.belong_to`, for what is shared."""
        path = f"{self._root}/database-id"
        with _reaching():
            try:
                known = str(self._fs.cat_file(path).decode("ascii"))
            except FileNotFoundError:
                known = "" if self._digests() and not names_any else database_id
                if known:
                    self._remember(path, known)
        if known != database_id:
            raise StoreUnusable(
                "The adapters stored under blob_url belong to another database. Use that one, or "
                "another prefix."
            )

    def place(self, source: Source) -> None:
        """Both files, also where they are there already: the sweep goes by their age.

        Other servers may be reading those: they get the old ones or the new, each whole. Raises
        StoreFull where a file system has no room.
        """
        directory = self._directory(source.digest)
        with _reaching():
            for name in _FILES:
                self._put(source.directory / name, f"{directory}/{name}")

    def fetch(self, digest: str, directory: Path) -> bool:
        """Copy both files into `directory`; False where one is missing. Nothing is hashed."""
        with _reaching():
            try:
                for name in _FILES:
                    self._fs.get_file(f"{self._directory(digest)}/{name}", str(directory / name))
            except FileNotFoundError:
                return False
        return True

    def sweep(self, live: set[str], now: float, remove: Callable[[str], None]) -> None:
        """Call `remove` for what is not in `live` and was written over GRACE_S ago.

        It has to ask the database again, and may then call `discard`.
        """
        with _reaching():
            if self._local is not None:
                self._local.sweep(now - GRACE_S)
            unnamed = self._digests() - live
            old = [digest for digest in unnamed if now - self._written(digest) > GRACE_S]
        for digest in old:
            remove(digest)

    def is_old(self, digest: str, now: float) -> bool:
        """Whether it is still as old as the sweep found it: an upload writes it anew."""
        with _reaching():
            return now - self._written(digest) > GRACE_S

    def discard(self, digest: str) -> None:
        with _reaching():
            for name in _FILES:
                path = f"{self._directory(digest)}/{name}"
                if self._fs.exists(path):
                    self._fs.rm_file(path)
            if self._local is not None:
                self._fs.rmdir(self._directory(digest))

    def _directory(self, digest: str) -> str:
        return f"{self._root}/sources/{digest}"

    def _put(self, path: Path, target: str) -> None:
        if self._local is None:
            self._fs.put_file(str(path), target)
        else:
            self._local.put(path, Path(target))

    def _remember(self, path: str, database_id: str) -> None:
        if self._local is None:
            self._fs.pipe_file(path, database_id.encode("ascii"))
        else:
            self._local.write(database_id, Path(path))

    def _digests(self) -> set[str]:
        try:
            found = self._fs.ls(f"{self._root}/sources", detail=False)
        except FileNotFoundError:
            return set()
        return {str(path).rstrip("/").rpartition("/")[2] for path in found}

    def _written(self, digest: str) -> float:
        """When the younger of the files that are there was written, unix seconds."""
        times = [0.0]
        for name in _FILES:
            try:
                times.append(self._fs.modified(f"{self._directory(digest)}/{name}").timestamp())
            except FileNotFoundError:
                continue
        return max(times)


def _protocols(fs: Any) -> tuple[str, ...]:
    protocol = fs.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except AdapterError:
        raise  # already says what is wrong
    except Exception as error:
        # What a driver raises is its own affair: botocore's errors are no OSErrors.
        _log.error("the shared store of adapter files failed: %s", error)
        raise BlobsUnavailable from error
