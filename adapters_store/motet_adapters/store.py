"""Bytes in, leased adapters out.

Threads: every method of AdapterStore may be called from any thread. `get`, `versions`, `page`,
`list`, `lease`, `has_weights` and `Lease.release` read memory only and never wait on a disk, so an
event loop may call them. All others do disk work and `put`, `check` and sometimes `image`
arithmetic. A Staging belongs to one thread at a time.

Locks, in the order they may be taken: that of `Lowering` or a digest's loading lock; then the
writer lock (renames and the registry); then the index's own.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import torch
from motet_database import Change, ChangeFeed, Database, Legacy

from motet_adapters.adapter import Adapter
from motet_adapters.base_weights import BaseWeights
from motet_adapters.blob_states import BlobStates
from motet_adapters.catalog import Catalog
from motet_adapters.checkup import Checkup
from motet_adapters.compositions import Compositions
from motet_adapters.condition import UNCONDITIONAL, Condition
from motet_adapters.described import described
from motet_adapters.disk import Disk
from motet_adapters.durable import refusing_when_full
from motet_adapters.errors import AdapterError
from motet_adapters.host_cache import HostCache
from motet_adapters.image import Image
from motet_adapters.images import Images
from motet_adapters.index import Clock, Index, Lease
from motet_adapters.known_uploads import KnownUploads
from motet_adapters.limits import Limits
from motet_adapters.lower import Pause
from motet_adapters.lowering import Lowering
from motet_adapters.origin import Origin
from motet_adapters.registry import Registry, opening
from motet_adapters.room import RequireRoom, all_the_room
from motet_adapters.scrub import Scrub
from motet_adapters.shared_files import SharedFiles
from motet_adapters.source import Source
from motet_adapters.staging import Staging
from motet_adapters.stored_weights import StoredWeights
from motet_adapters.tags import require_tags
from motet_adapters.upkeep import Upkeep

MAX_VERSIONS = 10


class AdapterStore(Catalog):
    """Sources and images under `root`, for one base and one dtype of A, B and gain.

    host_bytes: memory for images on the host. max_image_bytes: the device's budget for adapters;
    a larger adapter is refused at upload. pin_memory: read images into page-locked memory, for
    copies to a CUDA device. database: the caller's to close; None: a file of the store's own
    under `root`. changes: tells of what other processes change in that database; close it before
    the store. max_versions: kept of one name. require_room: asked before anything is published.
    origin: where servers share the uploaded files; None: only `root`. Raises StoreUnusable.
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
        changes: ChangeFeed | None = None,
        max_versions: int = MAX_VERSIONS,
        require_room: RequireRoom = all_the_room,
        clock: Clock = time.time,
        origin: Origin | None = None,
    ) -> None:
        self._limits = limits
        self._host = HostCache(host_bytes)
        self._clock = clock
        self._shared: SharedFiles | None = None
        self._on_removed: Callable[[str], None] = _nobody
        writer = threading.Lock()
        self._disk = Disk(root, base.fingerprint, dtype)
        self._own: Database | None = None
        try:
            with opening():
                if database is None:
                    database = self._own = self._open_own()
                registry = Registry(
                    database, max_versions=max_versions, require_room=require_room, clock=clock
                )
                names = registry.everything()
            self._disk.belong_to(database.id, names_any=bool(names))
            if origin is not None:
                origin.belong_to(database.id, names_any=bool(names))
            index = Index(names, clock)
            super().__init__(registry, index, writer, self._collect)
            states = BlobStates(database)
            if origin is not None:
                self._shared = SharedFiles(
                    origin, self._disk, index, states, writer, stage=self.stage, clock=clock
                )
            self._checkup = Checkup(
                states,
                self._disk.source,
                writer,
                index.is_held,
                self._drop_image,
                None if self._shared is None else self._shared.restore,
                may_be_elsewhere=database.is_shared and origin is None,
            )
            weights = StoredWeights(index, self._disk.source, self._checkup)
            self.has_weights, self.reuse_weights = weights.has, weights.reuse
            self.require_sound = self._checkup.quarantine.require_free
            self._images = Images(
                self._disk,
                base,
                dtype,
                host=self._host,
                checkup=self._checkup,
                is_held=index.is_held,
                writer=writer,
                note=self._note_image_bytes,
                pin_memory=pin_memory,
            )
            self._lowering = Lowering(base, dtype, limits, max_image_bytes, self._images.bases)
            self._known = KnownUploads(index, self._disk, self._lowering, clock)
            self._compositions = Compositions(self._images.get)
            with opening():
                self._checkup.check_sizes()
        except BaseException:
            self._close_files()
            raise
        self._threads: tuple[Scrub | Upkeep, ...] = ()
        self._disk.sweep(self._index.digests())
        self._collector = ThreadPoolExecutor(1, thread_name_prefix="motet-collector")
        if changes is not None:
            changes.listen(self.follow)

    def stage(self) -> Staging:
        """A private place to write an upload into. Raises StoreFull."""
        return Staging(self._disk.staging, self._limits)

    def check(
        self,
        tenant: str,
        name: str,
        staging: Staging,
        *,
        expires_at: int | None = None,
        tags: Iterable[str] = (),
        condition: Condition = UNCONDITIONAL,
        lossy_rank: int | None = None,
    ) -> Adapter:
        """What `put` would publish, with nothing published (a dry run); its number stays open.

        Raises as `put` does, but for quotas, which are asked when it is published.
        """
        sorted_tags = require_tags(tags)
        condition.require(name, self._index.current_digest(tenant, name))
        lowered = self._lowering.of(staging.finish_as(tenant, name, lossy_rank))
        adapter = described(tenant, name, staging, lowered, self._clock())
        return replace(adapter, expires_at=expires_at, tags=sorted_tags)

    def put(
        self,
        tenant: str,
        name: str,
        staging: Staging,
        *,
        expires_at: int | None = None,
        tags: Iterable[str] = (),
        condition: Condition = UNCONDITIONAL,
        lossy_rank: int | None = None,
        actor: str = "store",
    ) -> Adapter:
        """Validate, lower and publish an upload as the name's next version, served from now on.

        When this returns, a power cut can't undo it. What the name serves already, with equal
        tags and end, changes nothing and is returned. Leases of older versions keep their bytes.
        The staging is closed, whatever the outcome. `actor` is who the audit log names.
        lossy_rank: for an adapter that does not fold exactly: cut its updates to this rank.
        Raises InvalidName, InvalidTag, AdapterRefused, AdapterTooLarge, ConditionFailed,
        StoreFull and what the quota raises; then nothing is changed.
        """
        with staging:
            sorted_tags = require_tags(tags)
            # Cheap, and again on the rows themselves before anything is published.
            condition.require(name, self._index.current_digest(tenant, name))
            source = staging.finish_as(tenant, name, lossy_rank)
            image_path = staging.directory / "image"
            adapter = self._known.find(tenant, name, staging, source.digest)
            if adapter is None:
                lowered = self._lowering.of(source)
                with refusing_when_full():
                    self._images.write(image_path, lowered.image)
                adapter = described(tenant, name, staging, lowered, self._clock())
            adapter = replace(adapter, expires_at=expires_at, tags=sorted_tags)
            # Outside the lock: it reads the whole source, if equal bytes were uploaded before.
            placed = self._disk.source(source.digest)
            stamp, is_placed = placed.stamp(), placed.is_intact()
            if self._shared is not None:
                self._shared.place(source)
            with self._writer:
                # Good files that came meanwhile stay: a kill amid a replacement would leave none.
                replaces = not is_placed and placed.stamp() == stamp
                return self._publish(
                    adapter, source, image_path, condition, actor=actor, replaces=replaces
                )

    def image(self, digest: str) -> Image:
        """The digest's image: from memory, from disk, or made again from its source.

        Raises AdapterQuarantined when the source is gone or damaged, AdapterLoadFailed when it
        doesn't fit this base, AdapterRefused when a composition's adapters cannot be added.
        """
        return self._compositions.find(digest) or self._images.get(digest)

    def on_removed(self, listener: Callable[[str], None]) -> None:
        """Call `listener(digest)` whenever a digest's last version and last lease are gone, on any
        thread, so that memory for it can be given back. It must neither block nor raise."""

        def removed(digest: str) -> None:
            for each in (digest, *self._compositions.of_member(digest)):
                listener(each)

        self._on_removed = removed

    def pause_with(self, pause: Pause) -> None:
        """Call `pause()` between two modules of an upload, on the thread that lowers it."""
        self._lowering.pause = pause

    def lease(self, tenant: str, name: str) -> Lease:
        """Look up and hold in one step. Raises AdapterNotFound, AdapterQuarantined."""
        lease = self._index.lease(tenant, name, self._end_lease)
        try:
            self._checkup.quarantine.require_free(lease.adapter.digest)
        except AdapterError:
            lease.release()
            raise
        return lease

    def lease_sum(self, tenant: str, members: Sequence[tuple[str, float]]) -> Lease:
        """Hold several adapters as one, each with its weight: see composition.py. Does disk work.

        Raises AdapterNotFound, AdapterQuarantined, AdapterRefused where they cannot be added.
        """
        with ExitStack() as held:
            lease = self._compositions.hold(
                [(held.enter_context(self.lease(tenant, name)), w) for name, w in members]
            )
            held.pop_all()
        return lease

    def follow(self, changes: Sequence[Change]) -> None:
        """Take over what this or another process has committed."""
        super().follow(changes)
        for change in changes:
            if change.action.startswith("blob."):
                self._checkup.follow(change.subject)

    def start_upkeep(self, scrub_bytes_per_s: int) -> None:
        """Until `close`, in the background: hash everything again, delete what has expired, and
        sweep what servers share. Call it once."""
        self._threads = (
            Scrub(self._checkup, scrub_bytes_per_s, only_here=self._checkup.is_shared),
            Upkeep(self.expire, *(() if self._shared is None else (self._shared.sweep,))),
        )
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Finish pending removals and let go of the directory. Idempotent."""
        for thread in self._threads:
            thread.close()
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
        self,
        adapter: Adapter,
        source: Source,
        image_path: Path,
        condition: Condition,
        *,
        actor: str,
        replaces: bool,
    ) -> Adapter:
        """Place the files, then commit the rows. Under the writer lock."""
        try:
            with refusing_when_full():
                self._disk.place_source(source, replace=replaces)
                if image_path.exists():
                    self._disk.place_image(image_path, adapter.digest)
            self._checkup.take_upload(adapter.digest, actor)
            after = self._registry.put(adapter, condition, actor)
        except BaseException:  # raised again: files without a row are nobody's
            self._collect(adapter.digest)
            raise
        self._note(adapter.tenant, adapter.name, after)
        return after.current

    def _end_lease(self, digest: str) -> None:
        if self._index.end_lease(digest):
            # After `close` there is no collector; the next start sweeps instead.
            with suppress(RuntimeError):
                self._collector.submit(self._collect_soon, digest)

    def _collect_soon(self, digest: str) -> None:
        # Before the lock: whoever publishes the same bytes now only has them loaded again.
        self._on_removed(digest)
        with self._writer:
            self._collect(digest)

    def _collect(self, digest: str) -> None:
        """Remove a digest that no name and no lease holds. Under the writer lock."""
        # Only `put` can make a digest held again, and it needs the writer lock too.
        if not self._index.is_held(digest):
            self._on_removed(digest)
            self._host.discard(digest)
            self._disk.remove(digest)
            self._checkup.quarantine.forget(digest)

    def _drop_image(self, digest: str) -> None:
        self._on_removed(digest)
        self._images.drop(digest)

    def _note_image_bytes(self, digest: str, image_bytes: int) -> None:
        if self._index.set_image_bytes(digest, image_bytes):
            self._registry.set_image_bytes(digest, image_bytes)


def _nobody(digest: str) -> None:
    """Nobody keeps anything for a digest yet."""
