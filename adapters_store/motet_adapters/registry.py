"""Which name points at which digest: SQLite, one connection, every commit durable when it returns.

WAL with synchronous=FULL: a commit survives a power cut. The store's writer lock serialises all
calls, so the connection is never used by two threads at once.
"""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from motet_adapters.adapter import Adapter
from motet_adapters.errors import StoreFull, StoreUnusable

_VERSION = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SCHEMA = """
CREATE TABLE adapters (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    kind TEXT NOT NULL,
    ranks TEXT NOT NULL,
    matched TEXT NOT NULL,
    num_parameters INTEGER NOT NULL,
    source_bytes INTEGER NOT NULL,
    image_bytes INTEGER NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
"""


class Registry:
    """Rows are adapters. Raises StoreUnusable when the file can't be trusted."""

    def __init__(self, path: Path) -> None:
        with _opening():
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with _opening():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def adapters(self) -> list[Adapter]:
        """Every row. Raises StoreUnusable for a row that no version of this code wrote."""
        query = (
            "SELECT tenant, name, digest, kind, ranks, matched, num_parameters, source_bytes, "
            "image_bytes, created FROM adapters ORDER BY tenant, name"
        )
        with _opening():
            return [_adapter(row) for row in self._connection.execute(query)]

    def put(self, adapter: Adapter) -> None:
        """Point the name at the digest, whatever it pointed at before. Raises StoreFull."""
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO adapters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    adapter.tenant,
                    adapter.name,
                    adapter.digest,
                    adapter.kind,
                    json.dumps(list(adapter.ranks)),
                    json.dumps(dict(adapter.matched)),
                    adapter.num_parameters,
                    adapter.source_bytes,
                    adapter.image_bytes,
                    adapter.created,
                ),
            )

    def set_image_bytes(self, digest: str, image_bytes: int) -> None:
        """After lowering for another base or dtype. Raises StoreFull."""
        with self._transaction():
            self._connection.execute(
                "UPDATE adapters SET image_bytes = ? WHERE digest = ?", (image_bytes, digest)
            )

    def delete(self, tenant: str, name: str) -> None:
        """Raises StoreFull."""
        with self._transaction():
            self._connection.execute(
                "DELETE FROM adapters WHERE tenant = ? AND name = ?", (tenant, name)
            )

    def close(self) -> None:
        self._connection.close()

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA busy_timeout = 5000")
        if self._connection.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
            raise _damaged()
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self._transaction():
                self._connection.execute(_SCHEMA)
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise StoreUnusable(
                f"The registry has format {version}; this version of Motet reads {_VERSION}. "
                "Use the version that wrote it, or an empty store."
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            full = sqlite3.SQLITE_FULL
            if isinstance(error, sqlite3.Error) and error.sqlite_errorcode == full:
                raise StoreFull from error
            raise


@contextmanager
def _opening() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreUnusable(
            f"The registry of adapters can't be opened ({error}). Check the rights to the store's "
            "directory and the room on its disk."
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged() from error


def _adapter(row: tuple[str, str, str, str, str, str, int, int, int, int]) -> Adapter:
    tenant, name, digest, kind, ranks, matched, *numbers = row
    # Paths are built from digests: nothing but hex may come out of this file.
    if not _DIGEST.fullmatch(digest):
        raise _damaged()
    try:
        return Adapter(
            tenant, name, digest, kind, tuple(json.loads(ranks)), json.loads(matched), *numbers
        )
    except ValueError as error:
        raise _damaged() from error


def _damaged() -> StoreUnusable:
    return StoreUnusable(
        "The registry of adapters is damaged. Restore registry.sqlite3 from a backup, or remove "
        "it and upload the adapters again."
    )
