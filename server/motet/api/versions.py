"""/v1/adapters/{name}/versions: what a name has served, and which of it it serves."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from motet_adapters import Adapter, Versions
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.adapter_documents import adapter_document
from motet.api.conditions import condition_of, etag
from motet.api.parameters import require_known
from motet.api.service import Service
from motet.api.uploads import finished_in

_MOST = 2**53

Number = Annotated[int, Query(ge=1, le=_MOST)]


def versions_router(service: Service) -> APIRouter:
    """To be included in that of /v1/adapters."""
    router = APIRouter(prefix="/{name}")
    store, gate = service.store, service.gate

    @router.get("/versions")
    async def list_versions(request: Request, name: str) -> Response:
        """Newest first; `current` marks the one that is served."""
        versions = store.versions(gate.tenant(request), name)
        data = [_document(version, versions) for version in versions.all]
        return JSONResponse({"object": "list", "data": data}, headers=etag(versions.current.digest))

    @router.get("/versions/{number}")
    async def describe_version(request: Request, name: str, number: int) -> dict[str, Any]:
        versions = store.versions(gate.tenant(request), name)
        return _document(versions.get(number), versions)

    @router.delete("/versions/{number}")
    async def delete_version(request: Request, name: str, number: int) -> dict[str, Any]:
        """Of the one that is served, the newest of the others is served from now on."""
        caller = gate.caller(request)
        condition = condition_of(request)
        await finished_in(
            None,
            lambda: store.delete_version(
                caller.tenant, name, number, condition=condition, actor=caller.actor
            ),
        )
        return {"id": name, "object": "adapter.version", "version": number, "deleted": True}

    @router.post("/rollback")
    async def roll_back(request: Request, name: str, version: Number | None = None) -> Response:
        """Serves another version from now on; without ?version= the one before the current."""
        caller = gate.caller(request)
        require_known(request, "version")
        condition = condition_of(request)
        adapter = await finished_in(
            None,
            lambda: store.roll_back(
                caller.tenant, name, version, condition=condition, actor=caller.actor
            ),
        )
        return JSONResponse(adapter_document(adapter), headers=etag(adapter.digest))

    return router


def _document(version: Adapter, versions: Versions) -> dict[str, Any]:
    return {**adapter_document(version), "current": version.number == versions.current.number}
