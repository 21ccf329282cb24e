"""/admin/tenants: who may call, with which keys and within which limits. For the admin key."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.description import json_of
from motet.api.json_body import read_json
from motet.api.service import Service
from motet.api.tenant_documents import (
    NewKey,
    NewTenant,
    QuotaChange,
    Renaming,
    Rotation,
    key_document,
    listing,
    made_key_document,
    quota_document,
    tenant_document,
)
from motet.errors import RequestRefused

_PREFIX = "/admin/tenants"


def tenants_router(service: Service) -> APIRouter:
    router = APIRouter(prefix=_PREFIX)
    tenants = service.tenancy.tenants
    depth = service.settings.max_json_depth

    # Here and below: writing waits for the disk, so it happens off the event loop.
    @router.post("", openapi_extra=json_of(NewTenant))
    async def create(request: Request) -> Response:
        service.gate.require_admin(request)
        body = await read_json(request, NewTenant, depth)
        tenant, key = await asyncio.to_thread(tenants.create, body.name, scopes=body.scopes)
        return JSONResponse({**tenant_document(tenant), "key": key}, 201)

    @router.get("")
    async def list_tenants(request: Request) -> dict[str, Any]:
        service.gate.require_admin(request)
        return listing([tenant_document(one) for one in await asyncio.to_thread(tenants.list)])

    @router.get("/{name}")
    async def describe(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        return tenant_document(await asyncio.to_thread(tenants.get, name))

    @router.patch("/{name}", openapi_extra=json_of(Renaming))
    async def rename(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        body = await read_json(request, Renaming, depth)
        return tenant_document(await asyncio.to_thread(tenants.rename, name, body.name))

    @router.post("/{name}/suspend")
    async def suspend(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        return tenant_document(await asyncio.to_thread(tenants.suspend, name))

    @router.post("/{name}/resume")
    async def resume(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        return tenant_document(await asyncio.to_thread(tenants.resume, name))

    @router.delete("/{name}")
    async def delete(request: Request, name: str, confirm: str = "") -> dict[str, Any]:
        """With all it has, for good. In version 0.1 this only ended its keys, hence `confirm`."""
        service.gate.require_admin(request)
        if confirm != name:
            raise RequestRefused(
                "This deletes the tenant with all its adapters for good; repeat its name in the "
                "query, ?confirm=NAME. To keep everything, POST to .../suspend instead.",
                "not_confirmed",
                "confirm",
            )
        id = await asyncio.to_thread(tenants.delete, name)
        return {"name": name, "id": id, "object": "tenant", "deleted": True}

    @router.post("/{name}/rotate")
    async def rotate(request: Request, name: str) -> dict[str, Any]:
        """One new key in place of all."""
        service.gate.require_admin(request)
        key = await asyncio.to_thread(tenants.rotate, name)
        return {**tenant_document(await asyncio.to_thread(tenants.get, name)), "key": key}

    return router


def tenant_keys_router(service: Service) -> APIRouter:
    router = APIRouter(prefix=f"{_PREFIX}/{{name}}/keys")
    keys = service.tenancy.keys
    depth = service.settings.max_json_depth

    @router.get("")
    async def list_keys(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        found = await asyncio.to_thread(keys.list, await _id(service, name))
        return listing([key_document(key) for key in found])

    @router.post("", openapi_extra=json_of(NewKey))
    async def create(request: Request, name: str) -> Response:
        service.gate.require_admin(request)
        body = await read_json(request, NewKey, depth)
        tenant = await _id(service, name)
        made = await asyncio.to_thread(keys.create, tenant, **body.model_dump())
        return JSONResponse(made_key_document(made), 201)

    @router.post("/{key_id}/rotate", openapi_extra=json_of(Rotation))
    async def rotate(request: Request, name: str, key_id: str) -> Response:
        service.gate.require_admin(request)
        body = await read_json(request, Rotation, depth)
        tenant = await _id(service, name)
        made = await asyncio.to_thread(keys.rotate, tenant, key_id, grace_s=body.grace_s)
        return JSONResponse(made_key_document(made), 201)

    @router.delete("/{key_id}")
    async def revoke(request: Request, name: str, key_id: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        await asyncio.to_thread(keys.revoke, await _id(service, name), key_id)
        return {"id": key_id, "object": "key", "revoked": True}

    return router


def quotas_router(service: Service) -> APIRouter:
    router = APIRouter(prefix=f"{_PREFIX}/{{name}}/quota")
    quotas = service.tenancy.quotas

    @router.get("")
    async def describe(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        own = await asyncio.to_thread(quotas.get, await _id(service, name))
        return quota_document(own, own.over(quotas.default))

    @router.patch("", openapi_extra=json_of(QuotaChange))
    async def change(request: Request, name: str) -> dict[str, Any]:
        service.gate.require_admin(request)
        body = await read_json(request, QuotaChange, service.settings.max_json_depth)
        tenant = await _id(service, name)
        own = await asyncio.to_thread(quotas.set, tenant, body.limits())
        return quota_document(own, own.over(quotas.default))

    return router


async def _id(service: Service, name: str) -> str:
    """Raises TenantNotFound."""
    return (await asyncio.to_thread(service.tenancy.tenants.get, name)).id
