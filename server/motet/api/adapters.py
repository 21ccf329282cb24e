"""/v1/adapters: a tenant's own adapters, uploaded, listed, described, deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from motet_adapters import Adapter, AdapterNotFound, AdapterStore, Staging
from motet_adapters.file_kinds import CONFIG_FILE, WEIGHTS_FILE
from motet_adapters.names import require_name
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.description import form_of
from motet.api.errors import AlreadyThere
from motet.api.file_uploads import files_router
from motet.api.multipart import form_files
from motet.api.service import Service
from motet.api.uploads import finished_in, write_all
from motet.errors import RequestRefused

_PAGE = 1000

Name = str
DryRun = Annotated[bool, Query(description="Check only; publish nothing.")]
Limit = Annotated[int, Query(ge=1, le=_PAGE)]
After = Annotated[str | None, Query(description="The last name of the page before.")]


def adapters_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/adapters")

    @router.put("/{name}", openapi_extra=form_of(CONFIG_FILE, WEIGHTS_FILE))
    async def upload(request: Request, name: Name, dry_run: DryRun = False) -> Response:
        """Both files in one multipart form."""
        tenant = _uploader(service, request, name)
        with service.desk.receiving(), service.store.stage() as staging:
            pieces = form_files(request.headers.get("content-type", ""), request.stream())
            await write_all(staging, pieces)
            return await _publish(service, request, tenant, name, staging, dry_run)

    @router.post("/{name}/commit")
    async def commit(request: Request, name: Name, dry_run: DryRun = False) -> Response:
        """Publishes the files that were sent one by one. A dry run leaves them in place."""
        tenant = _uploader(service, request, name)
        with service.desk.committing(tenant, name, keep=dry_run) as staging:
            return await _publish(service, request, tenant, name, staging, dry_run)

    @router.get("")
    async def list_adapters(
        request: Request, limit: Limit = _PAGE, after: After = None
    ) -> dict[str, Any]:
        tenant = service.gate.tenant(request)
        _only(request, "limit", "after")
        adapters = service.store.list(tenant)
        rest = [adapter for adapter in adapters if after is None or adapter.name > after]
        page = rest[:limit]
        return {
            "object": "list",
            "data": [_document(adapter) for adapter in page],
            "first_id": page[0].name if page else None,
            "last_id": page[-1].name if page else None,
            "has_more": len(rest) > len(page),
        }

    @router.get("/{name}")
    async def describe(request: Request, name: Name) -> dict[str, Any]:
        return _document(service.store.get(service.gate.tenant(request), name))

    @router.delete("/{name}")
    async def delete(request: Request, name: Name) -> dict[str, Any]:
        """New requests get a 404 at once; those that run are finished."""
        tenant = service.gate.tenant(request)
        await finished_in(None, service.store.delete, tenant, name)
        return {"id": name, "object": "adapter", "deleted": True}

    router.include_router(
        files_router(service, lambda request, name: _uploader(service, request, name))
    )
    return router


def _uploader(service: Service, request: Request, name: str) -> str:
    """The tenant, once everything but the files has been found good."""
    tenant = service.gate.tenant(request)
    _only(request, "dry_run")
    require_name(name)
    if name == service.model.name:
        raise AlreadyThere(f"{name!r} is the name of the base model; choose another.", "name_taken")
    if request.headers.get("if-none-match", "*") != "*":
        raise RequestRefused(
            "If-None-Match takes * alone: publish only if the name is free.", "bad_precondition"
        )
    return tenant


def _only(request: Request, *known: str) -> None:
    """Raises for a misspelt query parameter: ?dryrun=true must not publish."""
    for name in request.query_params:
        if name not in known:
            raise RequestRefused(
                f"The query parameter {name[:64]!a} is not known; this route takes "
                f"{' and '.join(known)}.",
                "unknown_parameter",
                name[:64].encode("ascii", "backslashreplace").decode(),
            )


async def _publish(
    service: Service, request: Request, tenant: str, name: str, staging: Staging, dry_run: bool
) -> Response:
    """Checks and, unless it is a dry run, publishes; the reply says what was matched."""
    if dry_run:
        adapter = await finished_in(service.publisher, service.store.check, tenant, name, staging)
        return JSONResponse({**_document(adapter), "dry_run": True})
    create_only = "if-none-match" in request.headers
    adapter = await finished_in(
        service.publisher, _put, service.store, tenant, name, staging, create_only
    )
    location = f"/v1/adapters/{name}"
    return JSONResponse(_document(adapter), 201, {"location": location})


def _put(
    store: AdapterStore, tenant: str, name: str, staging: Staging, create_only: bool
) -> Adapter:
    """On the one publishing thread, so that nothing can be published in between."""
    if create_only and _exists(store, tenant, name):
        raise AlreadyThere(
            f"You have an adapter named {name!r} already; leave If-None-Match out to replace it.",
            "adapter_exists",
        )
    return store.put(tenant, name, staging)


def _exists(store: AdapterStore, tenant: str, name: str) -> bool:
    try:
        store.get(tenant, name)
    except AdapterNotFound:
        return False
    return True


def _document(adapter: Adapter) -> dict[str, Any]:
    return {
        "id": adapter.name,
        "object": "adapter",
        "name": adapter.name,
        "digest": adapter.digest,
        "kind": adapter.kind,
        "ranks": list(adapter.ranks),
        "matched": dict(adapter.matched),
        "num_parameters": adapter.num_parameters,
        "bytes": adapter.source_bytes,
        "source_bytes": adapter.source_bytes,
        "image_bytes": adapter.image_bytes,
        "created": adapter.created,
    }
