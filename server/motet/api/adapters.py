"""/v1/adapters: a tenant's own adapters, uploaded, listed, described, deleted."""

import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from motet_adapters import Condition, Staging
from motet_adapters.file_kinds import CONFIG_FILE, WEIGHTS_FILE
from motet_adapters.lossy import LOSSY_RANK
from motet_adapters.names import require_name
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.adapter_documents import adapter_document
from motet.api.conditions import condition_of, etag
from motet.api.description import form_of
from motet.api.errors import AlreadyThere
from motet.api.file_uploads import files_router
from motet.api.multipart import form_files
from motet.api.parameters import require_known
from motet.api.service import Service
from motet.api.uploads import finished_in
from motet.api.versions import versions_router
from motet.errors import RequestRefused
from motet.tenancy.key_ring import Caller
from motet.tenancy.usage import Amount

_PAGE = 1000
_TERMS = ("dry_run", "expires_at", "tag", "lossy", "rank")
_LAST_SECOND = 2**53  # what JSON carries without loss; far beyond any date

DryRun = Annotated[bool, Query(description="Check only; publish nothing.")]
ExpiresAt = Annotated[
    int | None, Query(le=_LAST_SECOND, description="Unix seconds from which on it is gone.")
]
Tags = Annotated[list[str], Query(alias="tag", description="A word of yours; may be repeated.")]
Lossy = Annotated[
    bool, Query(description="Cut an update that does not fold exactly to a product of `rank`.")
]
Rank = Annotated[int | None, Query(ge=1, description="With lossy, 32 unless given.")]
Limit = Annotated[int, Query(ge=1, le=_PAGE)]
After = Annotated[str | None, Query(description="The last name of the page before.")]


@dataclass(frozen=True)
class Publication:
    """Who publishes under which name, and on what terms."""

    caller: Caller
    name: str
    dry_run: bool
    expires_at: int | None
    tags: list[str]
    condition: Condition
    lossy_rank: int | None


def adapters_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/adapters")

    @router.put("/{name}", openapi_extra=form_of(CONFIG_FILE, WEIGHTS_FILE))
    async def upload(
        request: Request,
        name: str,
        dry_run: DryRun = False,
        expires_at: ExpiresAt = None,
        tags: Tags = [],  # noqa: B006 (FastAPI copies it)
        lossy: Lossy = False,
        rank: Rank = None,
    ) -> Response:
        """Both files in one multipart form."""
        caller = _uploader(service, request, name, *_TERMS)
        terms = _terms(request, caller, name, dry_run, expires_at, tags, _lossy_rank(lossy, rank))
        with service.desk.receiving(caller.tenant), service.store.stage() as staging:
            pieces = form_files(request.headers.get("content-type", ""), request.stream())
            await service.desk.write_all(staging, pieces)
            return await _publish(service, terms, staging)

    @router.post("/{name}/commit")
    async def commit(
        request: Request,
        name: str,
        dry_run: DryRun = False,
        expires_at: ExpiresAt = None,
        tags: Tags = [],  # noqa: B006 (FastAPI copies it)
        lossy: Lossy = False,
        rank: Rank = None,
    ) -> Response:
        """Publishes the files that were sent one by one. A dry run leaves them in place."""
        caller = _uploader(service, request, name, *_TERMS)
        terms = _terms(request, caller, name, dry_run, expires_at, tags, _lossy_rank(lossy, rank))
        with service.desk.committing(caller.tenant, name, keep=dry_run) as staging:
            return await _publish(service, terms, staging)

    @router.get("")
    async def list_adapters(
        request: Request, limit: Limit = _PAGE, after: After = None
    ) -> Response:
        tenant = service.gate.tenant(request)
        require_known(request, "limit", "after")
        page, has_more = service.store.page(tenant, after, limit)
        # A response of our own: FastAPI would look into each field of each of a thousand again.
        return JSONResponse(
            {
                "object": "list",
                "data": [adapter_document(adapter) for adapter in page],
                "first_id": page[0].name if page else None,
                "last_id": page[-1].name if page else None,
                "has_more": has_more,
            }
        )

    @router.get("/{name}")
    async def describe(request: Request, name: str) -> Response:
        adapter = service.store.get(service.gate.tenant(request), name)
        return JSONResponse(adapter_document(adapter), headers=etag(adapter.digest))

    @router.delete("/{name}")
    async def delete(request: Request, name: str) -> dict[str, Any]:
        """All versions. New requests get a 404 at once; those that run are finished."""
        caller, store = service.gate.caller(request), service.store
        condition = condition_of(request)
        await finished_in(
            None,
            lambda: store.delete(caller.tenant, name, condition=condition, actor=caller.actor),
        )
        return {"id": name, "object": "adapter", "deleted": True}

    def uploader(request: Request, name: str) -> str:
        return _uploader(service, request, name).tenant

    router.include_router(versions_router(service))
    router.include_router(files_router(service, uploader))
    return router


def _uploader(service: Service, request: Request, name: str, *parameters: str) -> Caller:
    """Who uploads, once the name and the parameters have been found good."""
    caller = service.gate.caller(request, "upload")
    require_known(request, *parameters)
    require_name(name)
    if name == service.model.name:
        raise AlreadyThere(f"{name!r} is the name of the base model; choose another.", "name_taken")
    return caller


def _terms(
    request: Request,
    caller: Caller,
    name: str,
    dry_run: bool,
    expires_at: int | None,
    tags: list[str],
    lossy_rank: int | None,
) -> Publication:
    """Raises RequestRefused before any file is read."""
    if expires_at is not None and expires_at <= time.time():
        raise RequestRefused(
            "expires_at is not in the future; give unix seconds at which the adapter shall end.",
            "invalid_parameter",
            "expires_at",
        )
    condition = condition_of(request)
    return Publication(caller, name, dry_run, expires_at, tags, condition, lossy_rank)


def _lossy_rank(lossy: bool, rank: int | None) -> int | None:
    """Raises RequestRefused for a rank that would say nothing."""
    if rank is not None and not lossy:
        raise RequestRefused(
            "rank is only for uploads with lossy=true; add it, or leave the rank away.",
            "invalid_parameter",
            "rank",
        )
    return (rank or LOSSY_RANK) if lossy else None


async def _publish(service: Service, terms: Publication, staging: Staging) -> Response:
    """Checks and, unless it is a dry run, publishes; the reply says what was matched."""
    tenant, name, store = terms.caller.tenant, terms.name, service.store
    how: dict[str, Any] = {
        "expires_at": terms.expires_at,
        "tags": terms.tags,
        "condition": terms.condition,
        "lossy_rank": terms.lossy_rank,
    }
    if terms.dry_run:
        adapter = await finished_in(
            service.publisher, lambda: store.check(tenant, name, staging, **how)
        )
        document = adapter_document(adapter)
        # Which number it would get is decided when it is published.
        return JSONResponse({**document, "version": None, "dry_run": True})
    num_bytes = staging.num_bytes
    adapter = await finished_in(
        service.publisher,
        lambda: store.put(tenant, name, staging, actor=terms.caller.actor, **how),
    )
    service.tenancy.usage.add(tenant, name, Amount(uploaded_bytes=num_bytes))
    headers = {"location": f"/v1/adapters/{name}", **etag(adapter.digest)}
    return JSONResponse(adapter_document(adapter), 201, headers)
