"""PostgreSQL as the database: for several servers over one store."""

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from motet_database.errors import (
    DatabaseFailure,
    DatabaseFull,
    DatabaseUnavailable,
    DatabaseUnusable,
)

_CONNECT_TIMEOUT_S = 5
_STATEMENT_TIMEOUT_MS = 10_000
# Any number that no other program would choose; it names the lock all writers of Motet take.
_WRITER_LOCK = 0x6D6F_7465_74
_DISK_FULL, _LOCK_TIMEOUT, _CANCELED = "53100", "55P03", "57014"


def postgresql_engine(url: str) -> Engine:
    """An engine on a URL such as postgresql://user:password@host/database.

    Raises DatabaseUnusable for another kind of URL, and where the driver is not installed.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _foreign() from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise _foreign()
    try:
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "options": f"-c statement_timeout={_STATEMENT_TIMEOUT_MS}",
            },
        )
    except ModuleNotFoundError as error:
        raise DatabaseUnusable(
            "PostgreSQL's driver is not installed; install it with: pip install 'motet[postgresql]'"
        ) from error


def lock_writers(connection: Connection) -> None:
    """Makes this transaction the only one that writes, on any server, until it ends.

    So rows get their ids in the order of commits, which is what readers of the audit rely on.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _WRITER_LOCK})


def failure(error: BaseException | None) -> DatabaseFailure | None:
    """What an error of the driver means; None for one that is a fault of this program."""
    state: Any = getattr(error, "sqlstate", None)
    if state == _DISK_FULL:
        return DatabaseFull()
    lost = state is None or state.startswith(("08", "57P"))
    if lost and type(error).__name__ in ("OperationalError", "AdminShutdown", "InterfaceError"):
        return DatabaseUnavailable()
    if state in (_LOCK_TIMEOUT, _CANCELED) or (state is not None and lost):
        return DatabaseUnavailable()
    return None


def _foreign() -> DatabaseUnusable:
    return DatabaseUnusable(
        "The database's URL must begin with postgresql://, as in "
        "postgresql://user:password@host/database; leave it unset for a file in the data "
        "directory."
    )
