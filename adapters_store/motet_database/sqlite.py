"""SQLite as the database: one file, every commit durable when it returns, one writer.

WAL with synchronous=FULL: a commit survives a power cut. Readers never wait for a writer.
"""

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from motet_database.errors import (
    DatabaseFailure,
    DatabaseFull,
    DatabaseUnavailable,
    DatabaseUnusable,
    damaged,
)

_BUSY_TIMEOUT_MS = 5000
_FULL = {sqlite3.SQLITE_FULL}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def sqlite_engine(path: Path) -> Engine:
    """An engine on the file, which is made (readable by its owner alone) if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # SQLite gives the journals the mode of the file.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    engine = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write: they wait for each other at the start."""
    return engine.execution_options(motet_begin="BEGIN IMMEDIATE")


def check(connection: Connection) -> None:
    """Raises DatabaseUnusable for a file that SQLite finds damaged."""
    if connection.exec_driver_sql("PRAGMA quick_check").fetchall() != [("ok",)]:
        raise damaged()


def failure(error: BaseException | None) -> DatabaseFailure | None:
    """What an error of the driver means; None for one that is a fault of this program."""
    if not isinstance(error, sqlite3.Error):
        return None
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _FULL:
        return DatabaseFull()
    if code in _LOCKED:
        return DatabaseUnavailable()
    if code in _DAMAGED:
        return damaged()
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR):
        return DatabaseUnusable(
            f"The database of adapters and tenants can't be opened ({error}). Check the rights to "
            "its directory and the room on its disk."
        )
    return None


def _prepare(connection: Any, _record: Any) -> None:
    # Off: the driver's own guesses about when a transaction begins. `_begin` begins each.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("motet_begin", "BEGIN"))
