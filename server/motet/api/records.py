"""/admin/usage, /admin/audit and /admin/metrics: what was done, for the admin key."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from motet.api.metrics import CONTENT_TYPE
from motet.api.service import Service
from motet.api.tenant_documents import listing
from motet.api.tenant_metrics import tenant_metrics
from motet.tenancy.usage_report import UsageRow, csv_lines

_PAGE = 1000

Since = Annotated[int | None, Query(ge=0, description="Hours from this one on, unix seconds.")]
Until = Annotated[int | None, Query(ge=0, description="Hours before this one, unix seconds.")]
Format = Annotated[Literal["json", "csv"], Query(description="CSV holds all; JSON 1,000 rows.")]


def records_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/admin")
    tenancy = service.tenancy

    @router.get("/usage")
    async def usage(
        request: Request,
        tenant: str | None = None,
        since: Since = None,
        until: Until = None,
        format: Format = "json",
    ) -> Response:
        service.gate.require_admin(request)
        id = None
        if tenant is not None:
            id = (await asyncio.to_thread(tenancy.tenants.get, tenant)).id
        return await usage_reply(service, id, since, until, format)

    @router.get("/audit")
    async def audit(
        request: Request,
        after: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=_PAGE)] = 100,
        tenant: Annotated[str | None, Query(description="A tenant's id.")] = None,
    ) -> dict[str, Any]:
        """What followed change number `after`; without it, the newest changes. Oldest first."""
        service.gate.require_admin(request)
        found = await asyncio.to_thread(tenancy.audit.read, after=after, limit=limit, tenant=tenant)
        return listing([{**asdict(change), "object": "change"} for change in found])

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        """What names tenants and adapters; what does not is under /metrics."""
        service.gate.require_admin(request)
        return Response(tenant_metrics(tenancy), headers={"content-type": CONTENT_TYPE})

    return router


async def usage_reply(
    service: Service, tenant: str | None, since: int | None, until: int | None, format: str
) -> Response:
    """The use of one tenant (by id) or of all, what has just been used included."""
    await asyncio.to_thread(service.tenancy.try_flush)
    pages = service.tenancy.report.pages(tenant=tenant, since=since, until=until)
    if format == "csv":
        # Starlette asks for each page in a thread.
        return StreamingResponse(
            csv_lines(pages),
            media_type="text/csv; charset=utf-8; header=present",
            headers={"content-disposition": 'attachment; filename="usage.csv"'},
        )
    return JSONResponse(await asyncio.to_thread(_first, pages))


def _first(pages: Iterator[Sequence[UsageRow]]) -> dict[str, Any]:
    """The first thousand rows. Where there are more: narrow since and until, or take the CSV."""
    found = list(islice(pages, 2))
    rows = [asdict(row) for row in (found[0] if found else ())]
    return {**listing(rows), "has_more": len(found) > 1}
