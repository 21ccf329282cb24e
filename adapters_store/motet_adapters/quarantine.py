"""Which digests may not be served, in memory: asked for each request."""

import threading
from collections.abc import Iterable

from motet_adapters.errors import AdapterQuarantined


class Quarantine:
    """Digests whose stored bytes failed a check, and those found sound by this process.

    Thread-safe; never waits on a disk.
    """

    def __init__(self, quarantined: Iterable[str] = ()) -> None:
        self._quarantined = set(quarantined)
        self._sound: set[str] = set()
        self._lock = threading.Lock()

    def require_free(self, digest: str) -> None:
        """Raises AdapterQuarantined."""
        if digest in self._quarantined:
            raise AdapterQuarantined(digest)

    def holds(self, digest: str) -> bool:
        return digest in self._quarantined

    def is_sound(self, digest: str) -> bool:
        """Whether this process has hashed all of it and found nothing wrong."""
        return digest in self._sound

    def add(self, digest: str) -> None:
        with self._lock:
            self._quarantined.add(digest)
            self._sound.discard(digest)

    def note_sound(self, digest: str) -> None:
        """Frees it, too, if it was held."""
        with self._lock:
            self._sound.add(digest)
            self._quarantined.discard(digest)

    def release(self, digest: str) -> None:
        """Another server has found it good: it is hashed again here before it is served."""
        with self._lock:
            self._quarantined.discard(digest)
            self._sound.discard(digest)

    def forget(self, digest: str) -> None:
        """Its bytes are gone."""
        self.release(digest)
