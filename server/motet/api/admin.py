"""/admin/tenants: who may call, changed with the admin key."""

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.description import json_of
from motet.api.json_body import read_json
from motet.api.service import Service
from motet.tenancy.tenants import Tenant


class NewTenant(BaseModel):
    """The body of POST /admin/tenants."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


def admin_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/admin/tenants")
    tenants = service.tenants

    # Writing waits for the disk, so it happens off the event loop.
    @router.post("", openapi_extra=json_of(NewTenant))
    async def create(request: Request) -> Response:
        service.gate.require_admin(request)
        body = await read_json(request, NewTenant, service.settings.max_json_depth)
        tenant, key = await asyncio.to_thread(tenants.create, body.name)
        return JSONResponse({**_document(tenant), "key": key}, 201)

    @router.get("")
    async def list_tenants(request: Request) -> dict[str, Any]:
        service.gate.require_admin(request)
        data = [_document(tenant) for tenant in await asyncio.to_thread(tenants.list)]
        return {"object": "list", "data": data}

    @router.delete("/{name}")
    async def revoke(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        await asyncio.to_thread(tenants.revoke, name)
        return {"name": name, "object": "tenant", "revoked": True}

    @router.post("/{name}/rotate")
    async def rotate(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        key = await asyncio.to_thread(tenants.rotate, name)
        return {**_document(tenants.get(name)), "key": key}

    @router.post("/{name}/keys")
    async def add_key(request: Request, name: str) -> Response:
        service.gate.require_admin(request)
        key = await asyncio.to_thread(tenants.add_key, name)
        return JSONResponse({**_document(tenants.get(name)), "key": key}, 201)

    @router.delete("/{name}/keys/{key_id}")
    async def revoke_key(request: Request, name: str, key_id: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        await asyncio.to_thread(tenants.revoke_key, name, key_id)
        return {"id": key_id, "object": "key", "revoked": True}

    return router


def _document(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "object": "tenant",
        "created": tenant.created,
        "revoked": tenant.revoked,
        "key_ids": list(tenant.key_ids),
    }
