"""Which name points at which digest: rows of the database, every commit durable when it returns."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from motet_database import Database, DatabaseFailure, DatabaseFull, record
from motet_database.tables import adapters, blobs, versions
from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from motet_adapters.adapter import Adapter
from motet_adapters.errors import StoreFull, StoreUnusable

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CURRENT = (
    (adapters.c.tenant == versions.c.tenant)
    & (adapters.c.name == versions.c.name)
    & (adapters.c.current == versions.c.number)
)


class Registry:
    """Rows are adapters. Belongs to the store; the database stays the caller's to close."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def adapters(self) -> list[Adapter]:
        """Every name and what it points at. Raises StoreUnusable for a row that no version of
        this code wrote."""
        query = (
            select(versions, blobs)
            .select_from(adapters.join(versions, _CURRENT).join(blobs))
            .order_by(versions.c.tenant, versions.c.name)
        )
        try:
            with self._database.read() as connection:
                return [_adapter(row) for row in connection.execute(query).mappings()]
        except (ValueError, TypeError) as error:
            raise _damaged() from error

    def put(self, adapter: Adapter, actor: str) -> None:
        """Point the name at the digest, whatever it pointed at before. Raises StoreFull."""
        with self._writing() as connection:
            _put_blob(connection, adapter)
            before = _versions_removed(connection, adapter.tenant, adapter.name)
            _put_version(connection, adapter)
            _forget_unnamed(connection, before)
            record(
                connection,
                actor=actor,
                action="adapter.published",
                tenant=adapter.tenant,
                subject=adapter.name,
                detail={"digest": adapter.digest},
            )

    def set_image_bytes(self, digest: str, image_bytes: int) -> None:
        """After lowering for another base or dtype. Raises StoreFull."""
        with self._writing() as connection:
            values = {"image_bytes": image_bytes}
            connection.execute(update(blobs).where(blobs.c.digest == digest).values(values))

    def delete(self, tenant: str, name: str, actor: str) -> None:
        """Raises StoreFull."""
        with self._writing() as connection:
            before = _versions_removed(connection, tenant, name)
            connection.execute(
                delete(adapters).where(adapters.c.tenant == tenant, adapters.c.name == name)
            )
            _forget_unnamed(connection, before)
            record(connection, actor=actor, action="adapter.deleted", tenant=tenant, subject=name)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        try:
            with self._database.write() as connection:
                yield connection
        except DatabaseFull as error:
            raise StoreFull from error


@contextmanager
def opening() -> Iterator[None]:
    """Tell what is wrong with the database as what is wrong with the store."""
    try:
        yield
    except DatabaseFailure as error:
        raise StoreUnusable(error.message) from error


def _put_blob(connection: Connection, adapter: Adapter) -> None:
    derived = {"image_bytes": adapter.image_bytes}
    state = {"state": "live", "state_since": adapter.created}
    known = blobs.c.digest == adapter.digest
    if connection.execute(update(blobs).where(known).values(derived)).rowcount:
        connection.execute(update(blobs).where(known, blobs.c.state != "live").values(state))
        return
    facts = {
        "digest": adapter.digest,
        "kind": adapter.kind,
        "ranks": list(adapter.ranks),
        "matched": dict(adapter.matched),
        "warnings": [],
        "num_parameters": adapter.num_parameters,
        "source_bytes": adapter.source_bytes,
    }
    connection.execute(insert(blobs), facts | derived | state)


def _put_version(connection: Connection, adapter: Adapter) -> None:
    """Publish the next version."""
    place = {"tenant": adapter.tenant, "name": adapter.name}
    found = (adapters.c.tenant == adapter.tenant) & (adapters.c.name == adapter.name)
    last = connection.execute(select(adapters.c.last_number).where(found)).scalar()
    number = (last or 0) + 1
    numbers = {"current": number, "last_number": number}
    if last is None:
        connection.execute(insert(adapters), {**place, **numbers, "created": adapter.created})
    else:
        connection.execute(update(adapters).where(found).values(numbers))
    version: dict[str, Any] = {
        "number": number,
        "digest": adapter.digest,
        "created": adapter.created,
        "tags": [],
    }
    connection.execute(insert(versions), {**place, **version})


def _versions_removed(connection: Connection, tenant: str, name: str) -> list[str]:
    """Remove all versions of a name; their digests."""
    of_name = (versions.c.tenant == tenant) & (versions.c.name == name)
    digests = connection.execute(select(versions.c.digest).where(of_name)).scalars().all()
    connection.execute(delete(versions).where(of_name))
    return list(digests)


def _forget_unnamed(connection: Connection, digests: list[str]) -> None:
    """Remove those of the blobs that no version names any more."""
    named = select(versions.c.digest).where(versions.c.digest == blobs.c.digest)
    connection.execute(delete(blobs).where(blobs.c.digest.in_(digests), ~named.exists()))


def _adapter(row: RowMapping) -> Adapter:
    # Paths are built from digests: nothing but hex may come out of the database.
    if not _DIGEST.fullmatch(row[blobs.c.digest]):
        raise ValueError("a digest that is none")
    same = ("kind", "num_parameters", "source_bytes", "image_bytes")
    facts: dict[str, Any] = {name: row[name] for name in same}
    return Adapter(
        tenant=row["tenant"],
        name=row["name"],
        digest=row[blobs.c.digest],
        ranks=tuple(row["ranks"]),
        matched=row["matched"],
        created=row["created"],
        **facts,
    )


def _damaged() -> StoreUnusable:
    return StoreUnusable(
        "The registry of adapters is damaged. Restore the database from a backup, or remove it "
        "and upload the adapters again."
    )
