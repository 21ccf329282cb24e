"""What was used, read back from the database: by hour, tenant and adapter."""

import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from motet_database import Database
from motet_database.tables import tenants, usage
from sqlalchemy import func, select, tuple_

_PAGE = 1000


@dataclass(frozen=True)
class UsageRow:
    """One adapter's use in one hour. tenant: the name it has (or had when it was deleted)."""

    hour: int  # its first second, unix time
    tenant: str
    tenant_id: str
    adapter: str  # "": the base
    requests: int
    prompt_tokens: int
    completion_tokens: int
    uploaded_bytes: int


COLUMNS = tuple(UsageRow.__dataclass_fields__)


class UsageReport:
    """Reads a page at a time, so that a year of it can be exported. Safe from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pages(
        self, *, tenant: str | None = None, since: int | None = None, until: int | None = None
    ) -> Iterator[Sequence[UsageRow]]:
        """Of one tenant (by id) or of all; hours that began in [since, until), oldest first."""
        after: UsageRow | None = None
        while True:
            page = self._page(tenant, since, until, after)
            if page:
                yield page
                after = page[-1]
            if len(page) < _PAGE:
                return

    def _page(
        self, tenant: str | None, since: int | None, until: int | None, after: UsageRow | None
    ) -> Sequence[UsageRow]:
        place = (usage.c.hour, usage.c.tenant, usage.c.adapter)
        name = func.coalesce(tenants.c.name, usage.c.tenant).label("tenant_name")
        query = select(usage, name).outerjoin_from(usage, tenants, usage.c.tenant == tenants.c.id)
        if tenant is not None:
            query = query.where(usage.c.tenant == tenant)
        if since is not None:
            query = query.where(usage.c.hour >= since)
        if until is not None:
            query = query.where(usage.c.hour < until)
        if after is not None:
            last = (after.hour, after.tenant_id, after.adapter)
            query = query.where(tuple_(*place) > tuple_(*last))
        with self._database.read() as db:
            rows = db.execute(query.order_by(*place).limit(_PAGE)).mappings().all()
        return [
            UsageRow(
                hour=row["hour"],
                tenant=row["tenant_name"],
                tenant_id=row["tenant"],
                adapter=row["adapter"],
                requests=row["requests"],
                prompt_tokens=row["prompt_tokens"],
                completion_tokens=row["completion_tokens"],
                uploaded_bytes=row["uploaded_bytes"],
            )
            for row in rows
        ]


def csv_lines(pages: Iterator[Sequence[UsageRow]]) -> Iterator[str]:
    """A header, then a page's lines at a time; hours as UTC in ISO 8601. RFC 4180."""
    yield _csv([COLUMNS])
    for page in pages:
        yield _csv([(_hour(row.hour), *list(asdict(row).values())[1:]) for row in page])


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _hour(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
