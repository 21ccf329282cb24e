"""What a store does for itself now and then, besides the scrub: end what has expired, sweep."""

import logging
import threading
from collections.abc import Callable

from motet_database import DatabaseFailure

from motet_adapters.errors import AdapterError

_EVERY_S = 60.0
_log = logging.getLogger(__name__)


class Upkeep:
    """A thread that does each chore once a minute."""

    def __init__(self, *chores: Callable[[], None]) -> None:
        self._chores = chores
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="motet-upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Waits for the chore under way. Idempotent."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def run_once(self) -> None:
        for chore in self._chores:
            if self._ended.is_set():
                return
            try:
                chore()
            except (AdapterError, DatabaseFailure) as error:
                _log.warning("upkeep of the adapter store is put off: %s", error.message)
            except Exception:
                # The edge of this thread: a chore that fails is tried again in a minute, and the
                # others are still done.
                _log.exception("a chore of the adapter store failed")

    def _run(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.run_once()
