"""Bytes in, leased adapters out.

Threads: every method of AdapterStore may be called from any thread. `get`, `list`, `lease` and
`Lease.release` read memory only and never wait on a disk, so an event loop may call them. `put`,
`check`, `delete` and `image` do disk work and, the first two and sometimes the last, arithmetic.
A Staging belongs to one thread at a time.

Locks, in the order they may be taken: an upload lock (one lowering at a time bounds memory) or a
digest's loading lock; then the writer lock (renames and the registry); then the index's own.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
from motet_database import Database, DatabaseFailure, Legacy

from motet_adapters.adapter import Adapter
from motet_adapters.base_weights import BaseWeights
from motet_adapters.disk import Disk
from motet_adapters.durable import refusing_when_full
from motet_adapters.errors import AdapterError, AdapterLoadFailed
from motet_adapters.host_cache import HostCache
from motet_adapters.image import Image
from motet_adapters.image_file import ImageDamaged, read_image, write_image
from motet_adapters.index import Index, Lease
from motet_adapters.limits import Limits
from motet_adapters.matching import projections
from motet_adapters.names import require_name
from motet_adapters.registry import Registry, opening
from motet_adapters.source import Lowered, Source
from motet_adapters.staging import Staging

_NUM_LOADING_LOCKS = 16
# Limits are for uploads: what was accepted stays served when they are lowered later.
_STORED = Limits(
    max_upload_bytes=1 << 62, max_config_bytes=1 << 62, max_header_bytes=1 << 30, max_rank=1 << 30
)
_log = logging.getLogger(__name__)


class AdapterStore:
    """Sources and images under `root`, for one base and one dtype of A, B and gain.

    host_bytes: memory for images on the host. max_image_bytes: the device's budget for adapters;
    a larger adapter is refused at upload. pin_memory: read images into page-locked memory, for
    copies to a CUDA device. database: the caller's to close; None: a file of the store's own
    under `root`. Raises StoreUnusable.
    """

    def __init__(
        self,
        root: Path,
        base: BaseWeights,
        *,
        dtype: torch.dtype,
        limits: Limits,
        host_bytes: int,
        max_image_bytes: int | None = None,
        pin_memory: bool = False,
        database: Database | None = None,
    ) -> None:
        self._base = base
        self._dtype = dtype
        self._limits = limits
        self._max_image_bytes = max_image_bytes
        self._pin_memory = pin_memory
        self._host = HostCache(host_bytes)
        self._uploads = threading.Lock()
        self._writer = threading.Lock()
        self._loading = tuple(threading.Lock() for _ in range(_NUM_LOADING_LOCKS))
        self._disk = Disk(root, base.fingerprint, dtype)
        self._own: Database | None = None
        try:
            with opening():
                if database is None:
                    database = self._own = self._open_own()
                self._registry = Registry(database)
                adapters = self._registry.adapters()
            self._disk.belong_to(database.id, names_any=bool(adapters))
            self._index = Index(adapters)
        except BaseException:
            self._close_files()
            raise
        self._disk.sweep(self._index.digests())
        self._collector = ThreadPoolExecutor(1, thread_name_prefix="motet-collector")

    def stage(self) -> Staging:
        """A private place to write an upload into. Raises StoreFull."""
        return Staging(self._disk.staging, self._limits)

    def check(self, tenant: str, name: str, staging: Staging) -> Adapter:
        """What `put` would publish, with nothing published (a dry run). Raises as `put` does."""
        source = _named(tenant, name, staging)
        return self._described(tenant, name, staging, source, self._lowered(source))

    def put(self, tenant: str, name: str, staging: Staging, *, actor: str = "store") -> Adapter:
        """Validate, lower and publish an upload. When this returns, a power cut can't undo it.

        Equal bytes under the same name change nothing and return what is there. Another digest
        re-points the name at once; leases of the old one keep its bytes. The staging is closed,
        whatever the outcome. `actor` is who the audit log names. Raises InvalidName,
        AdapterRefused, AdapterTooLarge, StoreFull; then nothing is changed.
        """
        with staging:
            source = _named(tenant, name, staging)
            lowered = self._lowered(source)
            image_path = staging.directory / "image"
            with refusing_when_full():
                write_image(image_path, lowered.image, self._base.fingerprint)
            adapter = self._described(tenant, name, staging, source, lowered)
            # Outside the lock: it reads the whole source, if equal bytes were uploaded before.
            is_placed = self._disk.source(source.digest).is_intact()
            with self._writer:
                return self._publish(
                    adapter, source, image_path, actor=actor, replace=not is_placed
                )

    def get(self, tenant: str, name: str) -> Adapter:
        """Raises AdapterNotFound."""
        return self._index.get(tenant, name)

    def list(self, tenant: str) -> list[Adapter]:
        """The tenant's adapters by name."""
        return self._index.list(tenant)

    def delete(self, tenant: str, name: str, *, actor: str = "store") -> None:
        """Unpublish. The bytes go now, or when the last lease ends. Raises AdapterNotFound."""
        with self._writer:
            adapter = self._index.get(tenant, name)
            self._registry.delete(tenant, name, actor)
            self._index.remove(tenant, name)
            self._collect(adapter.digest)

    def lease(self, tenant: str, name: str) -> Lease:
        """Look up and hold in one step. Raises AdapterNotFound."""
        return self._index.lease(tenant, name, self._end_lease)

    def image(self, digest: str) -> Image:
        """The digest's image: from memory, from disk, or made again from its source.

        Raises AdapterLoadFailed when the source is gone or damaged or doesn't fit this base.
        """
        cached = self._host.get(digest)
        if cached is not None:
            return cached
        with self._loading[int(digest[:8], 16) % _NUM_LOADING_LOCKS]:
            cached = self._host.get(digest)
            if cached is not None:
                return cached
            image = self._read(digest) or self._remake(digest)
            self._host.put(image)
            # Asked after the put: a delete that came in between has discarded nothing yet.
            if not self._index.is_held(digest):
                self._host.discard(digest)
            return image

    def close(self) -> None:
        """Finish pending removals and let go of the directory. Idempotent."""
        self._collector.shutdown(wait=True)
        with self._writer:
            self._close_files()

    def _open_own(self) -> Database:
        return Database.at_path(self._disk.database, Legacy(registry=self._disk.old_registry))

    def _close_files(self) -> None:
        if self._own is not None:
            self._own.close()
        self._disk.close()

    def _publish(
        self, adapter: Adapter, source: Source, image_path: Path, *, actor: str, replace: bool
    ) -> Adapter:
        """Place the files, then commit the row. Under the writer lock."""
        before = self._index.find(adapter.tenant, adapter.name)
        try:
            with refusing_when_full():
                self._disk.place_source(source, replace=replace)
                self._disk.place_image(image_path, adapter.digest)
            if before is not None and before.digest == adapter.digest:
                return before
            self._registry.put(adapter, actor)
            self._index.put(adapter)
        except BaseException:
            self._collect(adapter.digest)
            raise
        if before is not None:
            self._collect(before.digest)
        return adapter

    def _lowered(self, source: Source) -> Lowered:
        with self._uploads:
            return source.lower(self._base, self._dtype, self._limits, self._max_image_bytes)

    def _described(
        self, tenant: str, name: str, staging: Staging, source: Source, lowered: Lowered
    ) -> Adapter:
        return Adapter(
            tenant=tenant,
            name=name,
            digest=source.digest,
            kind=lowered.settings.kind,
            ranks=tuple(sorted({found.rank for found in lowered.matches})),
            matched=projections(lowered.matches),
            num_parameters=lowered.num_parameters,
            source_bytes=staging.num_bytes,
            image_bytes=lowered.image.num_bytes,
            created=int(time.time()),
        )

    def _end_lease(self, digest: str) -> None:
        if self._index.end_lease(digest):
            # After `close` there is no collector; the next start sweeps instead.
            with suppress(RuntimeError):
                self._collector.submit(self._collect_soon, digest)

    def _collect_soon(self, digest: str) -> None:
        with self._writer:
            self._collect(digest)

    def _collect(self, digest: str) -> None:
        """Remove a digest that no name and no lease holds. Under the writer lock."""
        # Only `put` can make a digest held again, and it needs the writer lock too.
        if not self._index.is_held(digest):
            self._host.discard(digest)
            self._disk.remove(digest)

    def _read(self, digest: str) -> Image | None:
        try:
            return read_image(
                self._disk.image_path(digest),
                digest=digest,
                fingerprint=self._base.fingerprint,
                dtype=self._dtype,
                pin_memory=self._pin_memory,
            )
        except FileNotFoundError:
            return None
        except (ImageDamaged, OSError) as error:
            _log.warning("remaking the image of adapter %s: %s", digest, error)
            return None

    def _remake(self, digest: str) -> Image:
        source = self._disk.source(digest)
        if not source.is_intact():
            raise AdapterLoadFailed(
                digest, "The stored files of this adapter are damaged or gone. Upload it again."
            )
        try:
            image = source.lower(self._base, self._dtype, _STORED, None).image
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
            with self.stage() as staging:
                path = staging.directory / "image"
                write_image(path, image, self._base.fingerprint)
                with self._writer:
                    if self._index.is_held(digest):
                        self._disk.place_image(path, digest)
                    if self._index.set_image_bytes(digest, image.num_bytes):
                        self._registry.set_image_bytes(digest, image.num_bytes)
        except (AdapterError, DatabaseFailure, OSError) as error:
            _log.warning("the image of adapter %s is not kept on disk: %s", digest, error)


def _named(tenant: str, name: str, staging: Staging) -> Source:
    require_name(tenant, "tenant")
    require_name(name)
    return staging.finish()
