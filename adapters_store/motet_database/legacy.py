"""What Motet 0.1 kept in two SQLite files of their own, brought into the one database.

It happens in the transaction that makes the schema, so the new database has all of it or does not
exist. Only then are the old files renamed, and kept.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from motet_database.audit import record
from motet_database.errors import DatabaseUnusable
from motet_database.tables import adapters, blobs, keys, tenants, versions

_FORMAT = 1
_SUFFIX = ".carried-over"


@dataclass(frozen=True)
class Legacy:
    """Where the files of Motet 0.1 are, if there are any.

    lock: its server holds this file locked while it runs; None where the caller holds it already.
    """

    registry: Path | None = None
    tenants: Path | None = None
    lock: Path | None = None

    def files(self) -> list[Path]:
        """Those that exist."""
        return [path for path in (self.registry, self.tenants) if path and path.is_file()]

    def carry_over(self, connection: Connection) -> None:
        """Insert all of it, in the caller's transaction. Raises DatabaseUnusable."""
        if not self.files():
            return
        with self._held():
            for path, insert_all in (
                (self.registry, _insert_adapters),
                (self.tenants, _insert_tenants),
            ):
                if path is not None and path.is_file():
                    with _reading(path) as old:
                        num_rows = insert_all(connection, old)
                    detail = {"rows": num_rows}
                    record(
                        connection,
                        actor="store",
                        action="database.carried_over",
                        subject=path.name,
                        detail=detail,
                    )

    def set_aside(self) -> None:
        """Rename what was carried over. Raises DatabaseUnusable if that was done before: then a
        version 0.1 has run again since, and nobody can tell which of the two is right."""
        for path in self.files():
            kept = path.with_name(path.name + _SUFFIX)
            if kept.exists():
                raise DatabaseUnusable(
                    f"{path.name} was written by Motet 0.1 after this data directory had been "
                    "brought to the format of this version. Move it away to go on without what "
                    "was done there."
                )
            with _reading(path) as old:
                # Brings what is in the write-ahead log into the file itself.
                old.execute("PRAGMA journal_mode = DELETE")
            os.rename(path, kept)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keeps a server of version 0.1 from starting meanwhile."""
        if self.lock is None or not self.lock.exists():
            yield
            return
        descriptor = os.open(self.lock, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise DatabaseUnusable(
                "Another process has this data directory open, and its files are of an older "
                "format. Stop it first."
            ) from error
        finally:
            os.close(descriptor)


def _insert_adapters(connection: Connection, old: sqlite3.Connection) -> int:
    rows = old.execute("SELECT * FROM adapters ORDER BY created, tenant, name").fetchall()
    known: set[str] = set()
    for row in rows:
        if row["digest"] not in known:
            known.add(row["digest"])
            connection.execute(insert(blobs), _blob(row))
        place = {"tenant": row["tenant"], "name": row["name"], "created": row["created"]}
        connection.execute(insert(adapters), {**place, "current": 1, "last_number": 1})
        version = {"number": 1, "digest": row["digest"], "expires_at": None, "tags": []}
        connection.execute(insert(versions), {**place, **version})
    return len(rows)


def _blob(row: sqlite3.Row) -> dict[str, Any]:
    same = ("digest", "kind", "num_parameters", "source_bytes", "image_bytes")
    return {name: row[name] for name in same} | {
        "state": "live",
        "state_since": row["created"],
        "ranks": json.loads(row["ranks"]),
        "matched": json.loads(row["matched"]),
        "warnings": [],
    }


def _insert_tenants(connection: Connection, old: sqlite3.Connection) -> int:
    found = old.execute("SELECT name, created, revoked FROM tenants ORDER BY name").fetchall()
    for name, created, revoked in found:
        state = "active" if revoked is None else "suspended"
        row = {"id": name, "name": name, "created": created, "state": state}
        connection.execute(insert(tenants), {**row, "state_since": revoked or created})
    for digest, id, tenant, created in old.execute("SELECT digest, id, tenant, created FROM keys"):
        scopes = ["infer", "upload"]
        key = {"digest": digest, "id": id, "tenant": tenant, "scopes": scopes, "label": ""}
        connection.execute(insert(keys), {**key, "created": created})
    for digest, created in old.execute("SELECT digest, created FROM admin_key"):
        key = {"digest": digest, "id": digest.hex()[:12], "tenant": None, "scopes": ["admin"]}
        connection.execute(insert(keys), {**key, "label": "", "created": created})
    return len(found)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            (format,) = connection.execute("PRAGMA user_version").fetchone()
            if format not in (0, _FORMAT):
                raise DatabaseUnusable(
                    f"{path.name} has format {format}; this version of Motet carries over format "
                    f"{_FORMAT}. Use the version that wrote it."
                )
            yield connection
    except (sqlite3.Error, ValueError) as error:
        raise DatabaseUnusable(
            f"{path.name}, written by Motet 0.1, can't be read. Restore it from a backup, or move "
            "it away to begin without it."
        ) from error
