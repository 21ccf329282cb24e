"""The open database: transactions that read, transactions that write, nothing else."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError

from motet_database import postgresql, sqlite
from motet_database.errors import DatabaseUnavailable, DatabaseUnusable
from motet_database.legacy import Legacy
from motet_database.migration import upgrade
from motet_database.tables import identity


class Database:
    """Safe to use from any thread. Write with SQLAlchemy Core and `motet_database.tables`.

    is_shared: other servers may write to it (PostgreSQL). Beside a file, too, the command line
    does; `ChangeFeed` tells of both. id: 32 hex digits, of this database alone.
    """

    def __init__(self, engine: Engine, legacy: Legacy | None = None) -> None:
        """Brings the schema to this version; in a new database takes over what `legacy` names.

        Raises DatabaseUnusable.
        """
        self.is_shared = engine.dialect.name != "sqlite"
        self._engine = engine
        self._writing = engine if self.is_shared else sqlite.writing(engine)
        self._writer = threading.Lock()
        try:
            self._prepare(legacy)
        except BaseException:
            engine.dispose()
            raise

    @classmethod
    def at_path(cls, path: Path, legacy: Legacy | None = None) -> "Database":
        """SQLite in that file, which is made if need be. Raises DatabaseUnusable."""
        try:
            return cls(sqlite.sqlite_engine(path), legacy)
        except OSError as error:
            raise DatabaseUnusable(
                f"The database of adapters and tenants can't be opened ({error.strerror}). Check "
                "the rights to the data directory and the room on its disk."
            ) from error

    @classmethod
    def at_url(cls, url: str) -> "Database":
        """PostgreSQL. Raises DatabaseUnusable."""
        return cls(postgresql.postgresql_engine(url))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads and waits for nobody. On SQLite it sees one moment.

        Raises DatabaseUnavailable.
        """
        with self._telling(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """The one transaction that writes; all others, of any process, wait until it has ended.

        Committed durably when the block ends; rolled back if it raises. Keep it short, and never
        begin one inside another. Raises DatabaseFull, DatabaseUnavailable.
        """
        with self._telling(), self._writer, self._writing.begin() as connection:
            if self.is_shared:
                postgresql.lock_writers(connection)
            yield connection

    def close(self) -> None:
        """Nothing may be called afterwards. Idempotent."""
        self._engine.dispose()

    def _prepare(self, legacy: Legacy | None) -> None:
        try:
            if not self.is_shared:
                with self.read() as connection:
                    sqlite.check(connection)
            with self.write() as connection:
                is_new = upgrade(connection)
                if is_new and legacy is not None:
                    legacy.carry_over(connection)
                self.id = str(connection.execute(select(identity.c.id)).scalar_one())
        except DatabaseUnavailable as error:
            raise DatabaseUnusable(
                "The database can't be reached, or another process keeps it locked. Check its "
                "URL, and that it runs."
            ) from error
        if legacy is not None:
            legacy.set_aside()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn the driver's errors into ours."""
        module = postgresql if self.is_shared else sqlite
        try:
            yield
        except DBAPIError as error:
            told = module.failure(error.orig)
            if told is None:
                raise
            raise told from error
