"""Images by digest: from memory, from disk, or made again from the source."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from motet_database import DatabaseFailure

from motet_adapters.base_weights import BaseWeights
from motet_adapters.bases import Bases
from motet_adapters.checkup import Checkup
from motet_adapters.disk import Disk
from motet_adapters.durable import write_text
from motet_adapters.errors import AdapterError, AdapterLoadFailed
from motet_adapters.host_cache import HostCache
from motet_adapters.image import Image
from motet_adapters.image_file import ImageDamaged, read_image, write_image
from motet_adapters.limits import Limits
from motet_adapters.staging import Staging

_NUM_LOADING_LOCKS = 16
# Limits are for uploads: what was accepted stays served when they are lowered later.
_STORED = Limits(
    max_upload_bytes=1 << 62, max_config_bytes=1 << 62, max_header_bytes=1 << 30, max_rank=1 << 30
)
_log = logging.getLogger(__name__)


class Images:
    """For one base and one dtype. Thread-safe; each digest is loaded by one thread at a time.

    note: told, under `writer`, the number of bytes of an image that was made again.
    """

    def __init__(
        self,
        disk: Disk,
        base: BaseWeights,
        dtype: torch.dtype,
        *,
        host: HostCache,
        checkup: Checkup,
        is_held: Callable[[str], bool],
        writer: threading.Lock,
        note: Callable[[str, int], None],
        pin_memory: bool,
    ) -> None:
        self._disk = disk
        self._base = base
        self._dtype = dtype
        self._host = host
        self._checkup = checkup
        self._is_held = is_held
        self._writer = writer
        self._note = note
        self._pin_memory = pin_memory
        self.bases = Bases(base.fingerprint, dtype, self._stored_basis)
        self._loading = tuple(threading.Lock() for _ in range(_NUM_LOADING_LOCKS))

    def write(self, path: Path, image: Image) -> None:
        """As a file, durably, to be placed later, with those of its bases that are not kept yet.

        Raises OSError.
        """
        for basis in image.shared.values():
            if not self._disk.basis_path(basis.digest).exists():
                beside = path.with_name(f"{path.name}.basis.{basis.digest}")
                write_image(beside, basis, self._base.fingerprint)
        if image.shared:
            write_text(path.with_name(f"{path.name}.needs"), "\n".join(sorted(image.shared)))
        write_image(path, image, self._base.fingerprint)

    def drop(self, digest: str) -> None:
        """Of a damaged source: it is not served from any copy."""
        self._host.discard(digest)
        self._disk.image_path(digest).unlink(missing_ok=True)

    def get(self, digest: str) -> Image:
        """The digest's image: from memory, from disk, or made again from its source.

        Raises AdapterQuarantined when the source is gone or damaged, AdapterLoadFailed when it
        doesn't fit this base.
        """
        self._checkup.quarantine.require_free(digest)
        cached = self._host.get(digest)
        if cached is not None:
            return cached
        with self._loading[int(digest[:8], 16) % _NUM_LOADING_LOCKS]:
            cached = self._host.get(digest)
            if cached is not None:
                return cached
            self._checkup.require_sound(digest)
            image = self._read(digest) or self._remake(digest)
            self._host.put(image)
            # Asked after the put: a delete that came in between has discarded nothing yet.
            if not self._is_held(digest):
                self._host.discard(digest)
            return image

    def _read(self, digest: str) -> Image | None:
        try:
            image = self._read_file(self._disk.image_path(digest), digest)
        except FileNotFoundError:
            return None
        except (ImageDamaged, OSError) as error:
            _log.warning("remaking the image of adapter %s: %s", digest, error)
            return None
        shared = {basis: self.bases.find(basis) for basis in sorted(image.bases)}
        found = {basis: held for basis, held in shared.items() if held is not None}
        return replace(image, shared=found) if len(found) == len(shared) else None

    def _stored_basis(self, digest: str) -> Image | None:
        path = self._disk.basis_path(digest)
        try:
            return self._read_file(path, digest)
        except FileNotFoundError:
            return None
        except (ImageDamaged, OSError) as error:
            _log.warning("remaking the basis %s: %s", digest, error)
            path.unlink(missing_ok=True)  # so that a whole one is written
            return None

    def _read_file(self, path: Path, digest: str) -> Image:
        return read_image(
            path,
            digest=digest,
            fingerprint=self._base.fingerprint,
            dtype=self._dtype,
            pin_memory=self._pin_memory,
        )

    def _remake(self, digest: str) -> Image:
        # It is all read now anyway, and what was sound when it came in may have rotted since.
        self._checkup.verify(digest)
        try:
            source = self._disk.source(digest)
            image = source.lower(self._base, self._dtype, _STORED, None, self.bases).image
        except AdapterError as error:
            raise AdapterLoadFailed(
                digest, f"The adapter does not fit the base now served. {error.message}"
            ) from error
        self._keep(image)
        return image

    def _keep(self, image: Image) -> None:
        """Write a remade image and note its size. Serving does not depend on either."""
        digest = image.digest
        try:
            with Staging(self._disk.staging, _STORED) as staging:
                path = staging.directory / "image"
                self.write(path, image)
                with self._writer:
                    if self._is_held(digest):
                        self._disk.place_image(path, digest)
                    self._note(digest, image.num_bytes)
        except (AdapterError, DatabaseFailure, OSError) as error:
            _log.warning("the image of adapter %s is not kept on disk: %s", digest, error)
