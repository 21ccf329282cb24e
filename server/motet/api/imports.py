"""Adapters for a tenant from a place the operator allowed. For the admin key alone: a server that
fetched what a tenant names could be made to fetch anything."""

import asyncio

from fastapi import APIRouter
from motet_adapters.names import require_name
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.adapter_documents import adapter_document
from motet.api.conditions import etag
from motet.api.description import json_of
from motet.api.errors import AlreadyThere
from motet.api.json_body import read_json
from motet.api.service import Service
from motet.api.uploads import finished_in
from motet.blobs import import_prefixes

_MAX_URL_CHARS = 2048


class Import(BaseModel):
    """The body of POST /admin/tenants/{name}/adapters/{adapter}/import."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = Field(max_length=_MAX_URL_CHARS)


def imports_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/admin/tenants/{name}/adapters")
    prefixes = import_prefixes(service.settings)

    @router.post("/{adapter}/import", openapi_extra=json_of(Import))
    async def import_adapter(request: Request, name: str, adapter: str) -> Response:
        """Publishes the two files below `url` as the tenant's adapter, held to every check of an
        upload."""
        service.gate.require_admin(request)
        body = await read_json(request, Import, service.settings.max_json_depth)
        tenant = (await asyncio.to_thread(service.tenancy.tenants.get, name)).id
        require_name(adapter)
        if adapter == service.model.name:
            raise AlreadyThere(
                f"{adapter!r} is the name of the base model; choose another.", "name_taken"
            )
        store = service.store
        with service.desk.receiving(tenant), store.stage() as staging:
            await finished_in(None, prefixes.copy, body.url, staging)
            published = await finished_in(
                service.publisher, lambda: store.put(tenant, adapter, staging, actor="operator")
            )
        return JSONResponse(adapter_document(published), 201, etag(published.digest))

    return router
