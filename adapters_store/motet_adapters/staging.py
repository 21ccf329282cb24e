"""An upload on its way in: a private directory, limits enforced and digests taken while writing."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from motet_adapters.durable import refusing_when_full, sync_directory, sync_file, write_all
from motet_adapters.errors import AdapterTooLarge
from motet_adapters.file_kinds import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    refuse_foreign_name,
    refuse_missing,
)
from motet_adapters.limits import Limits
from motet_adapters.lossy import with_lossy_rank
from motet_adapters.names import quoted, require_name
from motet_adapters.source import Source, digest_of


class Staging:
    """Context manager; whatever was not published is removed on exit.

    One thread at a time. The directory is this object's own, under the store's root, so that a
    finished source can be renamed into place.
    """

    def __init__(self, parent: Path, limits: Limits) -> None:
        self._limits = limits
        with refusing_when_full():
            self.directory = _new_directory(parent)
        self._config = bytearray()
        self._converted: bytes | None = None  # the config with a lossy rank in it
        self._weights = hashlib.sha256()
        self._weights_bytes = 0
        self._descriptors: dict[str, int] = {}
        self._source: Source | None = None
        self._is_closed = False

    @property
    def num_bytes(self) -> int:
        """Bytes written so far, both files together."""
        return len(self._converted or self._config) + self._weights_bytes

    @property
    def weights_sha256(self) -> str:
        """Of the weights written so far, 64 hex digits."""
        return self._weights.hexdigest()

    @property
    def weights_bytes(self) -> int:
        """Of the weights written so far."""
        return self._weights_bytes

    def received(self, filename: str) -> int:
        """Bytes of one file written so far."""
        return len(self._config) if filename == CONFIG_FILE else self._weights_bytes

    def sha256(self, filename: str) -> str:
        """Of one file's bytes written so far, 64 hex digits."""
        if filename == CONFIG_FILE:
            return hashlib.sha256(self._config).hexdigest()
        return self._weights.hexdigest()

    def write(self, filename: str, chunk: bytes) -> None:
        """Append to one of the two files.

        Raises AdapterRefused for any other name, AdapterTooLarge at the first byte over a limit,
        StoreFull, and RuntimeError after the upload was checked or published.
        """
        self._require_open()
        if filename not in (CONFIG_FILE, WEIGHTS_FILE):
            raise refuse_foreign_name(filename, quoted(filename))
        self._require_room(filename, len(chunk))
        with refusing_when_full():
            write_all(self._descriptor(filename), chunk)
        if filename == CONFIG_FILE:
            self._config += chunk
        else:
            self._weights.update(chunk)
            self._weights_bytes += len(chunk)

    def restart(self, filename: str) -> None:
        """Forget what was written of one file. Raises RuntimeError as `write` does."""
        self._require_open()
        descriptor = self._descriptors.get(filename)
        if descriptor is None:
            return
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if filename == CONFIG_FILE:
            self._config.clear()
        else:
            self._weights, self._weights_bytes = hashlib.sha256(), 0

    def finish(self, lossy_rank: int | None = None) -> Source:
        """Make the files durable and name them by their digest. Idempotent.

        lossy_rank: to which the adapter is converted. It is written into the config, and so is a
        part of what the adapter is, here and wherever its files go.
        Raises AdapterRefused when one is missing, StoreFull, and RuntimeError after `close`.
        """
        if self._is_closed:
            raise RuntimeError("this upload was published or abandoned; stage a new one")
        if self._source is None:
            for filename in (CONFIG_FILE, WEIGHTS_FILE):
                if filename not in self._descriptors:
                    raise refuse_missing(filename)
            with refusing_when_full():
                for descriptor in self._descriptors.values():
                    os.fsync(descriptor)
                sync_directory(self.directory / "source")
            self._close_files()
            digest = digest_of(bytes(self._config), self._weights.digest())
            self._source = Source(self.directory / "source", digest)
        config = with_lossy_rank(bytes(self._config), lossy_rank)
        if config != (self._converted or self._config):
            self._rewrite(config)
            digest = digest_of(config, self._weights.digest())
            self._source = Source(self.directory / "source", digest)
        return self._source

    def finish_as(self, tenant: str, name: str, lossy_rank: int | None) -> Source:
        """`finish`, if that is what it can be called. Raises InvalidName too."""
        require_name(tenant, "tenant")
        require_name(name)
        return self.finish(lossy_rank)

    def close(self) -> None:
        """Remove what was not published. Idempotent."""
        self._is_closed = True
        self._close_files()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "Staging":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._source is not None or self._is_closed:
            raise RuntimeError("this upload is complete; stage a new one")

    def _require_room(self, filename: str, num_bytes: int) -> None:
        limits = self._limits
        if filename == CONFIG_FILE and len(self._config) + num_bytes > limits.max_config_bytes:
            raise AdapterTooLarge(
                f"{CONFIG_FILE} is over {limits.max_config_bytes} bytes. Upload the file PEFT "
                "wrote, without additions.",
                CONFIG_FILE,
            )
        if self.num_bytes + num_bytes > limits.max_upload_bytes:
            raise AdapterTooLarge(
                f"The upload is over {limits.max_upload_bytes} bytes. Save the adapter in "
                "bfloat16, train it with a smaller rank, or ask for a larger limit.",
                filename,
            )

    def _rewrite(self, config: bytes) -> None:
        path = self.directory / "source" / CONFIG_FILE
        with refusing_when_full():
            path.write_bytes(config)
            sync_file(path)
        self._converted = config

    def _descriptor(self, filename: str) -> int:
        if filename not in self._descriptors:
            path = self.directory / "source" / filename
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            self._descriptors[filename] = os.open(path, flags, 0o600)
        return self._descriptors[filename]

    def _close_files(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


def _new_directory(parent: Path) -> Path:
    directory = Path(tempfile.mkdtemp(dir=parent))
    try:
        (directory / "source").mkdir()
    except OSError:
        directory.rmdir()
        raise
    return directory
