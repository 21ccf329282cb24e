"""The tenants of a server and their keys, in a small SQLite database of their own.

Every question reads the database, so what another process changes (the command line beside a
running server) counts from its commit on: there is no cache that could outlive a revocation.
"""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from motet.errors import InvalidSetting, RequestRefused, TenantExists, TenantNotFound
from motet.tenancy.keys import key_digest, key_id, new_key, same_key

DEFAULT_TENANT = "default"
"""The tenant of every request while no tenant is configured."""

# The rule of adapter names, so that tenant and adapter names can be told the same way.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_BUSY_TIMEOUT_MS = 5000
_VERSION = 1
_SCHEMA = """
CREATE TABLE tenants (
    name TEXT PRIMARY KEY,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
    digest BLOB PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL REFERENCES tenants (name),
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_of_tenant ON keys (tenant);
CREATE TABLE admin_key (digest BLOB PRIMARY KEY, created INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Tenant:
    """One tenant. `key_ids` name its keys, oldest first; the keys themselves are not kept."""

    name: str
    created: int  # unix seconds
    revoked: int | None  # unix seconds; None: active
    key_ids: tuple[str, ...]


class Tenants:
    """Tenants and keys in one SQLite file. Safe to call from any thread.

    A revoked tenant keeps its name: nobody else can take it, and with it the adapters stored
    under it. `rotate` brings it back.
    """

    def __init__(self, path: Path) -> None:
        """Opens the database at `path`, making it (readable by its owner alone) if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        # Two connections, so that no reader waits while a writer waits for the disk.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._writer, self._reader = _connect(path), _connect(path)
        self._prepare()

    def create(self, name: str) -> tuple[Tenant, str]:
        """Adds a tenant and returns it with its first key, which cannot be shown again.

        Raises RequestRefused for a name outside the rule, TenantExists for one in use.
        """
        require_tenant_name(name)
        now = int(time.time())
        with self._write() as db:
            row = db.execute("SELECT revoked FROM tenants WHERE name = ?", (name,)).fetchone()
            if row is not None:
                raise TenantExists(_exists(name, revoked=row[0] is not None), "tenant_exists")
            db.execute("INSERT INTO tenants (name, created) VALUES (?, ?)", (name, now))
            key = self._insert_key(db, name, now)
        return self.get(name), key

    def get(self, name: str) -> Tenant:
        """The tenant of that name, revoked or not. Raises TenantNotFound."""
        tenants = self._select("WHERE name = ?", (name,))
        if not tenants:
            raise _not_found(name)
        return tenants[0]

    def list(self) -> Sequence[Tenant]:
        """Every tenant, revoked ones too, by name."""
        return self._select("", ())

    def add_key(self, name: str) -> str:
        """A further key for an active tenant, beside those it has. Raises TenantNotFound."""
        with self._write() as db:
            self._require_active(db, name)
            return self._insert_key(db, name, int(time.time()))

    def rotate(self, name: str) -> str:
        """Ends all keys of a tenant and returns its one new key; a revoked tenant is active again.

        Raises TenantNotFound.
        """
        with self._write() as db:
            self._delete_keys(db, name)
            db.execute("UPDATE tenants SET revoked = NULL WHERE name = ?", (name,))
            return self._insert_key(db, name, int(time.time()))

    def revoke(self, name: str) -> None:
        """Ends a tenant and all its keys, from this moment on. Raises TenantNotFound."""
        with self._write() as db:
            self._delete_keys(db, name)
            db.execute(
                "UPDATE tenants SET revoked = ? WHERE name = ? AND revoked IS NULL",
                (int(time.time()), name),
            )

    def revoke_key(self, name: str, id: str) -> None:
        """Ends one key of a tenant, from this moment on. Raises TenantNotFound."""
        with self._write() as db:
            ended = db.execute("DELETE FROM keys WHERE tenant = ? AND id = ?", (name, id)).rowcount
        if not ended:
            raise TenantNotFound(
                "This tenant has no key with that id; list the tenants to see their key ids.",
                "key_not_found",
            )

    def authenticate(self, key: str) -> str | None:
        """The name of the active tenant this key belongs to; None for a key nobody has."""
        digest = key_digest(key)
        if digest is None:
            return None
        row = self._one("SELECT digest, tenant FROM keys WHERE digest = ?", (digest,))
        return str(row[1]) if row is not None and same_key(digest, row[0]) else None

    def configured(self) -> bool:
        """Whether a tenant was ever created: from then on every request needs a key.

        Revoked tenants count, so that revoking the last one does not open the server to all.
        """
        return self._one("SELECT 1 FROM tenants LIMIT 1", ()) is not None

    def new_admin_key(self) -> str:
        """Makes the admin key, in place of any older one, and returns it; it is kept hashed."""
        key = new_key()
        with self._write() as db:
            db.execute("DELETE FROM admin_key")
            db.execute(
                "INSERT INTO admin_key (digest, created) VALUES (?, ?)",
                (key_digest(key), int(time.time())),
            )
        return key

    def is_admin(self, key: str) -> bool:
        """Whether this is the admin key that `new_admin_key` made last."""
        digest, row = key_digest(key), self._one("SELECT digest FROM admin_key", ())
        return digest is not None and row is not None and same_key(digest, row[0])

    def has_admin_key(self) -> bool:
        """Whether `new_admin_key` was ever called on this database."""
        return self._one("SELECT 1 FROM admin_key", ()) is not None

    def close(self) -> None:
        """Closes the database; nothing may be called afterwards."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def _prepare(self) -> None:
        with self._write() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise InvalidSetting(
                    f"The tenants database is of version {version}, this program knows version "
                    f"{_VERSION}. Use the program that made it, or another data_dir.",
                    param="MOTET_DATA_DIR",
                )

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One writing transaction, begun at once so that two writers cannot deadlock."""
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    def _one(self, query: str, values: tuple[object, ...]) -> tuple[bytes, ...] | None:
        with self._reading:
            row: tuple[bytes, ...] | None = self._reader.execute(query, values).fetchone()
        return row

    def _select(self, where: str, values: tuple[object, ...]) -> Sequence[Tenant]:
        query = f"""
            SELECT name, created, revoked,
                   (SELECT group_concat(id) FROM
                       (SELECT id FROM keys WHERE tenant = name ORDER BY created, id))
            FROM tenants {where} ORDER BY name"""
        with self._reading:
            rows = self._reader.execute(query, values).fetchall()
        return [
            Tenant(name, created, revoked, tuple(ids.split(",")) if ids else ())
            for name, created, revoked, ids in rows
        ]

    def _require_active(self, db: sqlite3.Connection, name: str) -> None:
        query = "SELECT 1 FROM tenants WHERE name = ? AND revoked IS NULL"
        if db.execute(query, (name,)).fetchone() is None:
            raise _not_found(name)

    def _delete_keys(self, db: sqlite3.Connection, name: str) -> None:
        if db.execute("SELECT 1 FROM tenants WHERE name = ?", (name,)).fetchone() is None:
            raise _not_found(name)
        db.execute("DELETE FROM keys WHERE tenant = ?", (name,))

    def _insert_key(self, db: sqlite3.Connection, name: str, now: int) -> str:
        key = new_key()
        digest = key_digest(key)
        assert digest is not None
        db.execute(
            "INSERT INTO keys (digest, id, tenant, created) VALUES (?, ?, ?, ?)",
            (digest, key_id(digest), name, now),
        )
        return key


def _connect(path: Path) -> sqlite3.Connection:
    """Autocommit: each SELECT is a transaction of its own and sees the newest commit."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def require_tenant_name(name: str) -> None:
    """Raises RequestRefused unless `name` is a legal tenant name."""
    if not _NAME.fullmatch(name):
        raise RequestRefused(
            f"{name[:80]!a} is not a valid tenant name: use 1 to 64 of the characters a-z, "
            "0-9, '.', '_' and '-', beginning with a letter or digit.",
            "invalid_name",
            "name",
        )


def _exists(name: str, *, revoked: bool) -> str:
    if revoked:
        return (
            f"The name {name!r} belongs to a revoked tenant, whose adapters are still stored "
            "under it. Rotate its key to bring it back, or choose another name."
        )
    return f"There is a tenant named {name!r} already; choose another name, or rotate its key."


def _not_found(name: str) -> TenantNotFound:
    return TenantNotFound(f"There is no tenant named {name[:80]!a}.", "tenant_not_found")
