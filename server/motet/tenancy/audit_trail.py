"""The audit log, read by the operator. What writes it is `motet_database.record`."""

from collections.abc import Sequence

from motet_database import Change, Database
from motet_database.tables import audit
from sqlalchemy import select


class AuditTrail:
    """Every change, in the order in which they were made. Safe to call from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(
        self, *, after: int | None = None, limit: int = 100, tenant: str | None = None
    ) -> Sequence[Change]:
        """Oldest first: what followed change number `after`, or for None the newest `limit`.

        tenant: an id; None for all.
        """
        query = select(audit)
        if tenant is not None:
            query = query.where(audit.c.tenant == tenant)
        if after is not None:
            query = query.where(audit.c.id > after).order_by(audit.c.id)
        else:
            query = query.order_by(audit.c.id.desc())
        with self._database.read() as db:
            found = [Change(**row) for row in db.execute(query.limit(limit)).mappings()]
        return found if after is not None else found[::-1]
