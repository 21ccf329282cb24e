"""Versions as rows: read with their blob's facts, and inserted. In the caller's transaction."""

import re
from itertools import groupby
from operator import itemgetter
from typing import Any

from motet_database.tables import adapters, blobs, versions
from sqlalchemy import ColumnElement, Connection, RowMapping, insert, select, update

from motet_adapters.adapter import Adapter
from motet_adapters.versions import Versions

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FACTS = (
    "kind",
    "ranks",
    "matched",
    "warnings",
    "num_parameters",
    "source_bytes",
    "image_bytes",
    "weights_sha256",
    "weights_bytes",
    "num_virtual_tokens",
    "invocation_tokens",
    "lossy_errors",
)

_LISTS = ("ranks", "warnings", "tags", "invocation_tokens")


def select_versions(
    connection: Connection, where: ColumnElement[bool] | None = None
) -> list[Versions]:
    """All names, or those that `where`, by tenant and name.

    Raises ValueError or TypeError for a row that no version of this code wrote.
    """
    query = (
        select(
            versions, adapters.c.current, *(column for column in blobs.c if column.name != "digest")
        )
        .select_from(versions.join(adapters).join(blobs))
        .order_by(versions.c.tenant, versions.c.name, versions.c.number.desc())
    )
    if where is not None:
        query = query.where(where)
    rows = connection.execute(query).mappings()
    return [_versions([*of_name]) for _, of_name in groupby(rows, itemgetter("tenant", "name"))]


def find_versions(connection: Connection, tenant: str, name: str) -> Versions | None:
    """What a name of a tenant stands for. Raises ValueError or TypeError."""
    found = select_versions(connection, (adapters.c.tenant == tenant) & (adapters.c.name == name))
    return found[0] if found else None


def put_blob(connection: Connection, adapter: Adapter) -> None:
    """The bytes are in place; a quarantine is for others to end."""
    derived = {"image_bytes": adapter.image_bytes}
    state = {"state": "live", "state_since": adapter.created}
    of_weights = {
        "weights_sha256": adapter.weights_sha256,
        "weights_bytes": adapter.weights_bytes,
    }
    known = blobs.c.digest == adapter.digest
    if connection.execute(update(blobs).where(known).values(derived | of_weights)).rowcount:
        orphaned = blobs.c.state == "orphaned"
        connection.execute(update(blobs).where(known, orphaned).values(state))
        return
    facts = {
        "digest": adapter.digest,
        "kind": adapter.kind,
        "ranks": list(adapter.ranks),
        "matched": dict(adapter.matched),
        "warnings": list(adapter.warnings),
        "num_parameters": adapter.num_parameters,
        "source_bytes": adapter.source_bytes,
        "num_virtual_tokens": adapter.num_virtual_tokens,
        "invocation_tokens": list(adapter.invocation_tokens),
        "lossy_errors": dict(adapter.lossy_errors),
    }
    connection.execute(insert(blobs), facts | derived | of_weights | state)


def put_version(connection: Connection, adapter: Adapter) -> int:
    """Insert the next version and make it the current one; its number."""
    place = {"tenant": adapter.tenant, "name": adapter.name}
    found = (adapters.c.tenant == adapter.tenant) & (adapters.c.name == adapter.name)
    last = connection.execute(select(adapters.c.last_number).where(found)).scalar()
    number = int(last or 0) + 1
    numbers = {"current": number, "last_number": number}
    if last is None:
        connection.execute(insert(adapters), {**place, **numbers, "created": adapter.created})
    else:
        connection.execute(update(adapters).where(found).values(numbers))
    version: dict[str, Any] = {
        "number": number,
        "digest": adapter.digest,
        "created": adapter.created,
        "expires_at": adapter.expires_at,
        "tags": list(adapter.tags),
    }
    connection.execute(insert(versions), {**place, **version})
    return number


def set_current(connection: Connection, tenant: str, name: str, number: int) -> None:
    of_name = (adapters.c.tenant == tenant) & (adapters.c.name == name)
    connection.execute(update(adapters).where(of_name).values(current=number))


def _versions(rows: list[RowMapping]) -> Versions:
    found = tuple(_adapter(row) for row in rows)
    for row, version in zip(rows, found, strict=True):
        if row["current"] == version.number:
            return Versions(version, found)
    raise ValueError("a name without its current version")


def _adapter(row: RowMapping) -> Adapter:
    # Paths are built from digests: nothing but hex may come out of the database.
    if not _DIGEST.fullmatch(row["digest"]):
        raise ValueError("a digest that is none")
    facts: dict[str, Any] = {fact: row[fact] for fact in _FACTS}
    lists = {fact: tuple(row[fact]) for fact in _LISTS}
    same = ("tenant", "name", "number", "digest", "created", "expires_at")
    return Adapter(**{fact: row[fact] for fact in same}, **(facts | lists))
