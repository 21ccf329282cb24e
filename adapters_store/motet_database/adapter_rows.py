"""Rows of adapters, versions and blobs that go together, in the caller's transaction.

Apart from the store, so that the command line can delete a tenant's adapters without one: running
servers then learn of it from the audit log and let go of the files.
"""

import time
from collections.abc import Iterable

from sqlalchemy import Connection, delete, select, update

from motet_database.audit import record
from motet_database.tables import adapters, blobs, versions

_BATCH = 500


def delete_adapter(connection: Connection, tenant: str, name: str) -> None:
    """A name with all its versions. No change where there is none."""
    of_name = (versions.c.tenant == tenant) & (versions.c.name == name)
    digests = connection.execute(select(versions.c.digest).where(of_name)).scalars().all()
    connection.execute(delete(versions).where(of_name))
    connection.execute(delete(adapters).where(adapters.c.tenant == tenant, adapters.c.name == name))
    forget_unnamed(connection, digests)


def delete_versions(connection: Connection, tenant: str, name: str, numbers: Iterable[int]) -> None:
    """Some versions of a name. Its current one must not be among them when the transaction ends."""
    gone = (
        (versions.c.tenant == tenant)
        & (versions.c.name == name)
        & versions.c.number.in_(list(numbers))
    )
    digests = connection.execute(select(versions.c.digest).where(gone)).scalars().all()
    connection.execute(delete(versions).where(gone))
    forget_unnamed(connection, digests)


def delete_adapters_of(connection: Connection, tenant: str, *, actor: str) -> None:
    """All names of a tenant, each noted in the audit log."""
    of_tenant = versions.c.tenant == tenant
    digests = connection.execute(select(versions.c.digest).where(of_tenant)).scalars().all()
    names = connection.execute(
        select(adapters.c.name).where(adapters.c.tenant == tenant).order_by(adapters.c.name)
    )
    for name in names.scalars().all():
        record(connection, actor=actor, action="adapter.deleted", tenant=tenant, subject=name)
    connection.execute(delete(versions).where(of_tenant))
    connection.execute(delete(adapters).where(adapters.c.tenant == tenant))
    forget_unnamed(connection, digests)


def forget_unnamed(connection: Connection, digests: Iterable[str]) -> None:
    """Give up those of the blobs that no version names any more.

    Beside a file one server alone has the bytes, and removes them when its last lease ends. On a
    shared database another one may still lease or just be placing them: the row stays, orphaned,
    until the bytes have gone.
    """
    named = select(versions.c.digest).where(versions.c.digest == blobs.c.digest).exists()
    rest = sorted(set(digests))
    for start in range(0, len(rest), _BATCH):
        gone = blobs.c.digest.in_(rest[start : start + _BATCH]) & ~named
        if connection.dialect.name == "sqlite":
            connection.execute(delete(blobs).where(gone))
        else:
            values = {"state": "orphaned", "state_since": int(time.time())}
            connection.execute(update(blobs).where(gone).values(values))
