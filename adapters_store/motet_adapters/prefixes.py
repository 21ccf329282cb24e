"""Places the operator lets adapters be imported from. No tenant ever names one."""

import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from motet_adapters.errors import ImportFailed, ImportRefused
from motet_adapters.file_kinds import CONFIG_FILE, WEIGHTS_FILE
from motet_adapters.staging import Staging

_CHUNK_BYTES = 1 << 20


class Prefixes:
    """URLs such as file:///srv/adapters or s3://bucket/trained; what lies below may be read."""

    def __init__(self, urls: Iterable[str]) -> None:
        """Raises ImportRefused for a prefix that is none."""
        self._prefixes = [_split(url) for url in urls]

    def copy(self, url: str, staging: Staging) -> None:
        """Write the two files in the directory `url` into an upload.

        Raises ImportRefused for a URL outside every prefix, ImportFailed where there is no adapter
        or it can't be read, and what `Staging.write` does.
        """
        protocol, path = self._require_allowed(url)
        with _reading():
            fs, root = url_to_fs(f"{protocol}://{path}", use_listings_cache=False)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            for chunk in _chunks(fs, f"{root}/{name}"):
                staging.write(name, chunk)

    def _require_allowed(self, url: str) -> tuple[str, str]:
        protocol, path = _split(url)
        if protocol == "file":
            # A link inside the prefix must not lead out of it.
            path = str(Path(path).resolve())
        for allowed, prefix in self._prefixes:
            root = str(Path(prefix).resolve()) if allowed == "file" else prefix
            if protocol == allowed and path.startswith(f"{root.rstrip('/')}/"):
                return protocol, path
        raise ImportRefused(
            "Adapters are imported only from below the prefixes in import_prefixes; this URL is "
            "below none of them."
        )


def _split(url: str) -> tuple[str, str]:
    """Protocol and path of a plain URL: nothing in it may be read as more than a path."""
    protocol, separator, path = url.partition("://")
    path = path.rstrip("/")
    if (
        not separator
        or not protocol.isalnum()
        or not path
        or "::" in url
        or any(character in path for character in "?#*[]{}%\\")
        or not path.isprintable()
        or posixpath.normpath(path) != path
        or (protocol == "file") != path.startswith("/")
    ):
        raise ImportRefused(
            "Give a plain URL of a directory, such as file:///srv/adapters/mine or "
            "s3://bucket/trained/mine, without '..' or special characters."
        )
    return protocol, path


def _chunks(fs: Any, path: str) -> Iterator[bytes]:
    with _reading():
        file = fs.open(path, "rb")
    try:
        while True:
            with _reading():
                chunk: bytes = file.read(_CHUNK_BYTES)
            if not chunk:
                return
            yield chunk
    finally:
        with suppress(Exception):
            file.close()


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ImportFailed(f"There is no {CONFIG_FILE} with {WEIGHTS_FILE} at this URL.") from error
    except Exception as error:
        # What a driver raises is its own affair, and may hold addresses.
        raise ImportFailed("The adapter at this URL can't be read; the log says why.") from error
