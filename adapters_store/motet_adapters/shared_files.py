"""This server's dealings with the place where servers share the uploaded files."""

import threading
from collections.abc import Callable

from motet_adapters.blob_states import BlobStates
from motet_adapters.disk import Disk
from motet_adapters.durable import refusing_when_full
from motet_adapters.index import Clock, Index
from motet_adapters.origin import Origin
from motet_adapters.source import Source
from motet_adapters.staging import Staging


class SharedFiles:
    """Thread-safe. `writer` is the store's lock on placing and removing sources."""

    def __init__(
        self,
        origin: Origin,
        disk: Disk,
        index: Index,
        states: BlobStates,
        writer: threading.Lock,
        *,
        stage: Callable[[], Staging],
        clock: Clock,
    ) -> None:
        self._origin = origin
        self._disk = disk
        self._index = index
        self._states = states
        self._writer = writer
        self._stage = stage
        self._clock = clock

    def place(self, source: Source) -> None:
        """Before the row that names it is committed. Raises BlobsUnavailable."""
        self._origin.place(source)

    def restore(self, digest: str) -> bool:
        """Whether good files of the digest came from there and are in place here.

        Raises BlobsUnavailable, StoreFull.
        """
        with self._stage() as staging:
            source = Source(staging.directory / "source", digest)
            if not self._origin.fetch(digest, source.directory) or not source.is_intact():
                return False
            with self._writer, refusing_when_full():
                if self._index.is_held(digest):
                    self._disk.restore_source(source, digest)
        return True

    def sweep(self) -> None:
        """Remove there what no version names (any more), when it is older than a commit can take.

        Raises BlobsUnavailable.
        """
        self._origin.sweep(self._index.digests(), self._clock(), self._remove)

    def _remove(self, digest: str) -> None:
        def remove() -> None:
            if self._origin.is_old(digest, self._clock()):
                self._origin.discard(digest)

        self._states.remove_unnamed(digest, remove)
