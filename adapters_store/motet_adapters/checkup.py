"""Whether what is stored is still what was uploaded; what is not is quarantined.

Sizes are compared at every start, all bytes are hashed before a process first serves them and,
at leisure, by the scrub.
"""

import errno
import logging
import threading
from collections.abc import Callable

from motet_database import DatabaseFailure

from motet_adapters.blob_states import Blob, BlobStates
from motet_adapters.errors import AdapterLoadFailed, AdapterQuarantined
from motet_adapters.quarantine import Quarantine
from motet_adapters.source import Hashes, Pace, Source, at_once

_ELSEWHERE = (
    "The files of this adapter are not on this server. Several servers over one database need "
    "blob_url, a place for the files that all of them reach."
)
_log = logging.getLogger(__name__)


class Checkup:
    """Thread-safe. `writer` is the store's lock on placing and removing sources.

    source: where a digest's files are. is_held: whether a name or a lease needs it.
    on_quarantine: told of a digest that may no longer be served. restore: puts good files of a
    digest in place from where servers share them, if they can be had. may_be_elsewhere: files
    that are missing may be on another server that writes to the same database.
    """

    def __init__(
        self,
        states: BlobStates,
        source: Callable[[str], Source],
        writer: threading.Lock,
        is_held: Callable[[str], bool],
        on_quarantine: Callable[[str], None],
        restore: Callable[[str], bool] | None = None,
        *,
        may_be_elsewhere: bool = False,
    ) -> None:
        self.states = states
        self._source = source
        self._writer = writer
        self._is_held = is_held
        self._on_quarantine = on_quarantine
        self._restore = restore
        self._may_be_elsewhere = may_be_elsewhere
        self.quarantine = Quarantine()

    @property
    def is_shared(self) -> bool:
        """Whether other servers have files that this one lacks."""
        return self._restore is not None or self._may_be_elsewhere

    def check_sizes(self) -> None:
        """Of everything that is named, reading nothing of it. At start, before anything is served.

        Takes over what was quarantined before.
        """
        damaged = []
        for blob in self.states.all():
            if blob.is_quarantined:
                self.quarantine.add(blob.digest)
            elif self._has_wrong_size(blob):
                damaged.append(blob.digest)
        if damaged:
            with self._writer:
                self._quarantine(damaged, "a file is missing or has another size")

    def is_here(self, digest: str) -> bool:
        """Whether this server has the files, good or bad."""
        return self._source(digest).num_bytes() is not None

    def require_sound(self, digest: str) -> None:
        """Hashes it, unless this process has done so before. Raises AdapterQuarantined."""
        self.quarantine.require_free(digest)
        if not self.quarantine.is_sound(digest):
            self.verify(digest)

    def verify(self, digest: str, pace: Pace = at_once) -> Hashes:
        """Hashes all of it. Raises AdapterQuarantined, having quarantined it, where it differs."""
        source, restore = self._source(digest), self._restore
        while True:
            stamp = source.stamp()
            found, reason = _hashed(source, pace)
            if found is not None and found.digest == digest:
                self.quarantine.note_sound(digest)
                return found
            if restore is not None and self._is_held(digest):
                is_restored, restore = restore(digest), None
                if is_restored:
                    continue
            if self._may_be_elsewhere and not stamp:
                raise AdapterLoadFailed(digest, _ELSEWHERE)
            with self._writer:
                # A good upload may have replaced it while it was read.
                if not self._is_held(digest):
                    raise AdapterLoadFailed(digest, "The adapter was deleted.")
                if source.stamp() == stamp:
                    self._quarantine([digest], reason)
                    raise AdapterQuarantined(digest)

    def take_upload(self, digest: str, actor: str) -> None:
        """Good bytes of that digest are in place. Under `writer`."""
        if self.quarantine.holds(digest):
            self.states.restore(digest, actor)
            _log.info("adapter %s was uploaded again and left quarantine", digest)
        self.quarantine.note_sound(digest)

    def follow(self, digest: str) -> None:
        """Another server has changed the state of that digest."""
        if self.states.is_quarantined(digest):
            self.quarantine.add(digest)
            self._on_quarantine(digest)
        elif self.quarantine.holds(digest):
            self.quarantine.release(digest)

    def _has_wrong_size(self, blob: Blob) -> bool:
        num_bytes = self._source(blob.digest).num_bytes()
        if self._restore is not None or (num_bytes is None and self._may_be_elsewhere):
            return False
        return num_bytes != blob.num_bytes

    def _quarantine(self, digests: list[str], reason: str) -> None:
        for digest in digests:
            _log.error("adapter %s is quarantined: %s", digest, reason)
            self.quarantine.add(digest)
            self._on_quarantine(digest)
        try:
            self.states.quarantine(digests, reason)
        except DatabaseFailure as error:
            _log.error("the quarantine is not recorded: %s", error.message)


def _hashed(source: Source, pace: Pace) -> tuple[Hashes | None, str]:
    """What its bytes come to, and what is wrong if that is not its digest."""
    try:
        found = source.hashes(pace)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None, "the disk can't read it"
    if found is None:
        return None, "a file is missing"
    return found, "its bytes do not match its digest"
