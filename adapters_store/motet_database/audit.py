"""The audit log: every change, in the order of commits. Also how servers learn of each other's.

Whoever changes something that another process may have read appends a row in the same
transaction; each server polls for rows it has not seen and reads again what they name.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select

from motet_database.tables import audit

_PAGE = 1000


@dataclass(frozen=True)
class Change:
    """One row. `action` is OBJECT.VERB, such as adapter.published or key.revoked."""

    id: int
    at: int  # unix seconds
    actor: str
    tenant: str | None
    action: str
    subject: str
    detail: Mapping[str, Any]


def record(
    connection: Connection,
    *,
    actor: str,
    action: str,
    tenant: str | None = None,
    subject: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append to the log, in the transaction of the change itself. Never a key or a content."""
    row = {"at": int(time.time()), "actor": actor, "tenant": tenant, "action": action}
    connection.execute(insert(audit), {**row, "subject": subject, "detail": dict(detail or {})})


def last_id(connection: Connection) -> int:
    """Of the newest change; 0 before the first."""
    newest = connection.execute(select(func.max(audit.c.id))).scalar()
    return int(newest or 0)


def changes_after(connection: Connection, id: int, limit: int = _PAGE) -> list[Change]:
    """The changes that followed one, oldest first."""
    query = select(audit).where(audit.c.id > id).order_by(audit.c.id).limit(limit)
    return [Change(**row) for row in connection.execute(query).mappings()]
