"""Which name serves which version: rows of the database, every commit durable when it returns.

Preconditions, quotas and the cap on versions are decided here, inside the transaction and on its
rows: another server may have changed them since this one last looked.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from motet_database import Database, DatabaseFailure, DatabaseFull, record
from motet_database.adapter_rows import delete_adapter, delete_adapters_of, delete_versions
from motet_database.tables import adapters, blobs, versions
from sqlalchemy import ColumnElement, Connection, select, update

from motet_adapters.adapter import Adapter
from motet_adapters.condition import Condition
from motet_adapters.errors import (
    AdapterNotFound,
    StoreFull,
    StoreUnusable,
    VersionNotFound,
)
from motet_adapters.index import Clock
from motet_adapters.room import RequireRoom, all_the_room
from motet_adapters.version_rows import (
    find_versions,
    put_blob,
    put_version,
    select_versions,
    set_current,
)
from motet_adapters.versions import Versions

_BATCH = 500


class Registry:
    """Belongs to the store; the database stays the caller's to close.

    max_versions: kept of one name, the oldest leave first. Every change returns what the name
    then stands for, None: nothing, and raises StoreFull where the database has no room.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_versions: int,
        require_room: RequireRoom = all_the_room,
        clock: Clock = time.time,
    ) -> None:
        self._database = database
        self._max_versions = max_versions
        self._require_room = require_room
        self._clock = clock

    def everything(self) -> list[Versions]:
        """Raises StoreUnusable for a row that no version of this code wrote."""
        return self._select()

    def find_all(self, tenant: str, names: Iterable[str]) -> dict[str, Versions | None]:
        """What each of these names of one tenant stands for."""
        found: dict[str, Versions | None] = dict.fromkeys(names)
        rest = sorted(found)
        for start in range(0, len(rest), _BATCH):
            some = adapters.c.name.in_(rest[start : start + _BATCH])
            for of_name in self._select((adapters.c.tenant == tenant) & some):
                found[of_name.name] = of_name
        return found

    def put(self, adapter: Adapter, condition: Condition, actor: str) -> Versions:
        """Publish as the next version; no change if the name serves exactly this already.

        Raises ConditionFailed, and what `require_room` raises.
        """
        tenant, name = adapter.tenant, adapter.name
        with self._writing() as connection:
            found = self._living(connection, tenant, name)
            condition.require(name, found.current.digest if found is not None else None)
            if found is not None and _is_same(found.current, adapter):
                return found
            if found is not None:
                self._make_place(connection, found)
            self._require_room(
                connection,
                tenant,
                source_bytes=adapter.source_bytes,
                rank=max(adapter.ranks, default=0),
                is_new_name=found is None,
            )
            put_blob(connection, adapter)
            number = put_version(connection, adapter)
            detail = {"digest": adapter.digest, "number": number}
            _note(connection, actor, "published", adapter, detail)
            return _after(connection, tenant, name)

    def roll_back(
        self, tenant: str, name: str, number: int | None, condition: Condition, actor: str
    ) -> Versions:
        """Serve an older or newer version; None: the one before the current.

        Raises AdapterNotFound, VersionNotFound, ConditionFailed.
        """
        with self._writing() as connection:
            found = self._require(connection, tenant, name)
            condition.require(name, found.current.digest)
            wanted = found.before_current() if number is None else found.get(number)
            if wanted is None or wanted.has_expired(self._clock()):
                raise VersionNotFound(name, number)
            if wanted is found.current:
                return found
            set_current(connection, tenant, name, wanted.number)
            detail = {"number": wanted.number, "from": found.current.number}
            _note(connection, actor, "rolled_back", wanted, detail)
            return _after(connection, tenant, name)

    def delete(self, tenant: str, name: str, condition: Condition, actor: str) -> None:
        """A name with all its versions. Raises AdapterNotFound, ConditionFailed."""
        with self._writing() as connection:
            found = self._require(connection, tenant, name)
            condition.require(name, found.current.digest)
            delete_adapter(connection, tenant, name)
            _note(connection, actor, "deleted", found.current)

    def delete_version(
        self, tenant: str, name: str, number: int, condition: Condition, actor: str
    ) -> Versions | None:
        """One version; in place of the current one the newest left is served. With the last one
        goes the name.

        Raises AdapterNotFound, VersionNotFound, ConditionFailed.
        """
        with self._writing() as connection:
            found = self._require(connection, tenant, name)
            condition.require(name, found.current.digest)
            version = found.get(number)
            self._delete_version(connection, found, version)
            _note(connection, actor, "version_deleted", version, {"number": number})
            return find_versions(connection, tenant, name)

    def delete_tenant(
        self, tenant: str, actor: str, also: Callable[[Connection], None] | None
    ) -> None:
        """Every name of a tenant. `also` runs in the same transaction, after it."""
        with self._writing() as connection:
            delete_adapters_of(connection, tenant, actor=actor)
            if also is not None:
                also(connection)

    def expire(self, actor: str) -> list[tuple[str, str, Versions | None]]:
        """Delete the versions whose time is over, and names whose current version is one."""
        now = int(self._clock())
        over = versions.c.expires_at <= now
        with self._database.read() as connection:
            if connection.execute(select(versions.c.number).where(over).limit(1)).first() is None:
                return []
        changed: list[tuple[str, str, Versions | None]] = []
        with self._writing() as connection:
            query = select(versions.c.tenant, versions.c.name).where(over).distinct()
            for tenant, name in connection.execute(query).all():
                found = self._living(connection, tenant, name)
                for version in found.all if found is not None else ():
                    if version.has_expired(now):
                        delete_versions(connection, tenant, name, [version.number])
                        _note(connection, actor, "expired", version, {"number": version.number})
                changed.append((tenant, name, find_versions(connection, tenant, name)))
        return changed

    def set_image_bytes(self, digest: str, image_bytes: int) -> None:
        """After lowering for another base or dtype. Raises StoreFull."""
        with self._writing() as connection:
            values = {"image_bytes": image_bytes}
            connection.execute(update(blobs).where(blobs.c.digest == digest).values(values))

    def _select(self, where: ColumnElement[bool] | None = None) -> list[Versions]:
        try:
            with self._database.read() as connection:
                return select_versions(connection, where)
        except (ValueError, TypeError) as error:
            raise _damaged() from error

    def _living(self, connection: Connection, tenant: str, name: str) -> Versions | None:
        """What the name stands for; a name that has expired is deleted first."""
        found = find_versions(connection, tenant, name)
        if found is None or not found.current.has_expired(self._clock()):
            return found
        delete_adapter(connection, tenant, name)
        detail = {"number": found.current.number}
        _note(connection, "store", "expired", found.current, detail)
        return None

    def _require(self, connection: Connection, tenant: str, name: str) -> Versions:
        """Raises AdapterNotFound."""
        found = find_versions(connection, tenant, name)
        if found is None or found.current.has_expired(self._clock()):
            raise AdapterNotFound(name)
        return found

    def _make_place(self, connection: Connection, found: Versions) -> None:
        """For one more version, which will be the current one."""
        numbers = [version.number for version in found.all[self._max_versions - 1 :]]
        delete_versions(connection, found.tenant, found.name, numbers)

    def _delete_version(self, connection: Connection, found: Versions, version: Adapter) -> None:
        left = [one for one in found.all if one.number != version.number]
        if not left:
            delete_adapter(connection, found.tenant, found.name)
            return
        if version.number == found.current.number:
            now = self._clock()
            served = next((one for one in left if not one.has_expired(now)), left[0])
            set_current(connection, found.tenant, found.name, served.number)
        delete_versions(connection, found.tenant, found.name, [version.number])

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


def _is_same(served: Adapter, uploaded: Adapter) -> bool:
    return (served.digest, served.expires_at, served.tags) == (
        uploaded.digest,
        uploaded.expires_at,
        uploaded.tags,
    )


def _after(connection: Connection, tenant: str, name: str) -> Versions:
    found = find_versions(connection, tenant, name)
    if found is None:
        raise AssertionError("a version was just published")
    return found


def _note(
    connection: Connection,
    actor: str,
    verb: str,
    about: Adapter,
    detail: Mapping[str, Any] | None = None,
) -> None:
    action = f"adapter.{verb}"
    record(
        connection,
        actor=actor,
        action=action,
        tenant=about.tenant,
        subject=about.name,
        detail=detail,
    )


def _damaged() -> StoreUnusable:
    return StoreUnusable(
        "The registry of adapters is damaged. Restore the database from a backup, or remove it "
        "and upload the adapters again."
    )
