"""Reads everything that is stored again, slowly, to find rot before anybody asks for it."""

import logging
import threading
import time

from motet_database import DatabaseFailure

from motet_adapters.checkup import Checkup
from motet_adapters.errors import AdapterLoadFailed

_EVERY_S = 7 * 24 * 3600  # a blob is read about once in that time
_IDLE_S = 60.0
_PER_BLOB_S = 0.05  # besides its bytes, each costs a commit

_log = logging.getLogger(__name__)


class _Ended(Exception):
    """The scrub was closed in the middle of a file."""


class Scrub:
    """A thread that reads at most `bytes_per_s` from the disk.

    only_here: files that are not on this server are another's, or a shared store's, to check.
    """

    def __init__(self, checkup: Checkup, bytes_per_s: int, *, only_here: bool = False) -> None:
        self._only_here = only_here
        self._checkup = checkup
        self._bytes_per_s = bytes_per_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="motet-scrub", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends within a chunk. Idempotent."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def run_once(self) -> None:
        """Reads what is due, the longest unread first. Returns early when closed."""
        due = time.time() - _EVERY_S
        for blob in self._checkup.states.all():
            if self._ended.is_set() or (blob.checked is not None and blob.checked > due):
                return
            # What lies with others only is not fetched to be read.
            if not blob.is_quarantined and (
                not self._only_here or self._checkup.is_here(blob.digest)
            ):
                self._check(blob.digest)

    def _check(self, digest: str) -> None:
        try:
            found = self._checkup.verify(digest, self._pace)
            self._checkup.states.note_checked(digest, found.weights_sha256, found.weights_bytes)
        except AdapterLoadFailed:
            return  # `verify` has logged it
        self._ended.wait(_PER_BLOB_S)

    def _pace(self, num_bytes: int) -> None:
        if self._ended.wait(num_bytes / self._bytes_per_s):
            raise _Ended

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.run_once()
            except _Ended:
                return
            except (DatabaseFailure, OSError) as error:
                _log.warning("the scrub stopped and begins again later: %s", error)
            self._ended.wait(_IDLE_S)
