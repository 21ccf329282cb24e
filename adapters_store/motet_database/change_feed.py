"""How a server learns what other processes have changed: it polls the audit log."""

import logging
import threading
from collections.abc import Callable, Sequence

from motet_database.audit import Change, changes_after, last_id
from motet_database.database import Database
from motet_database.errors import DatabaseFailure

POLL_S = 0.2
"""Well under the second within which a change counts everywhere."""

_log = logging.getLogger(__name__)

Listener = Callable[[Sequence[Change]], None]


class ChangeFeed:
    """Tells listeners of every change that is committed from now on, by any process.

    Make it before what it keeps current is read: then a change is told twice at worst, and never
    missed. Listeners run on the feed's thread or on the one that calls `poll`, one at a time, and
    must do the same thing when told twice.
    """

    def __init__(self, database: Database, interval_s: float = POLL_S) -> None:
        self._database = database
        self._interval_s = interval_s
        self._listeners: list[Listener] = []
        self._polling = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="motet-changes", daemon=True)
        with database.read() as connection:
            self._seen = last_id(connection)

    def listen(self, listener: Listener) -> None:
        """Before `start`."""
        self._listeners.append(listener)

    def start(self) -> None:
        self._thread.start()

    def poll(self) -> None:
        """Tell what is new, now, also what this process has just committed.

        Raises DatabaseUnavailable; then nothing was told, and the next poll tells it.
        """
        with self._polling:
            while True:
                with self._database.read() as connection:
                    changes = changes_after(connection, self._seen)
                if not changes:
                    return
                for listener in self._listeners:
                    listener(changes)
                self._seen = changes[-1].id

    def close(self) -> None:
        """Ends the thread. Idempotent."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        is_failing = False
        while not self._ended.wait(self._interval_s):
            try:
                self.poll()
                is_failing = False
            except DatabaseFailure as error:
                # Said once: what is served goes on from memory until the database is back.
                if not is_failing:
                    _log.warning("changes by other servers are not seen: %s", error.message)
                is_failing = True
            except Exception:
                # The edge of this thread: one listener's failure must not end the feed for all.
                _log.exception("a change by another server could not be taken over")
