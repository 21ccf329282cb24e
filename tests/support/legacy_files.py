"""The two database files of Motet 0.1, as that version made them."""

import sqlite3
from contextlib import closing
from pathlib import Path

_REGISTRY = """
CREATE TABLE adapters (
    tenant TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, kind TEXT NOT NULL,
    ranks TEXT NOT NULL, matched TEXT NOT NULL, num_parameters INTEGER NOT NULL,
    source_bytes INTEGER NOT NULL, image_bytes INTEGER NOT NULL, created INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_TENANTS = """
CREATE TABLE tenants (name TEXT PRIMARY KEY, created INTEGER NOT NULL, revoked INTEGER)
STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    digest BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL REFERENCES tenants (name), created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_of_tenant ON keys (tenant);
CREATE TABLE admin_key (digest BLOB PRIMARY KEY, created INTEGER NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""

AdapterRow = tuple[str, str, str, str, str, str, int, int, int, int]


def write_registry(path: Path, rows: list[AdapterRow]) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.executescript("PRAGMA journal_mode = WAL;" + _REGISTRY)
        old.executemany("INSERT INTO adapters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        old.commit()


def write_tenants(
    path: Path,
    tenants: list[tuple[str, int, int | None]],
    keys: list[tuple[bytes, str, str, int]],
    admin: bytes | None = None,
) -> None:
    with closing(sqlite3.connect(path)) as old:
        old.executescript("PRAGMA journal_mode = WAL;" + _TENANTS)
        old.executemany("INSERT INTO tenants VALUES (?, ?, ?)", tenants)
        old.executemany("INSERT INTO keys VALUES (?, ?, ?, ?)", keys)
        if admin is not None:
            old.execute("INSERT INTO admin_key VALUES (?, 7)", (admin,))
        old.commit()
