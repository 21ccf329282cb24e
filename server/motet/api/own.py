"""/v1/keys, /v1/quota and /v1/usage: a tenant's own. Keys and usage need the scope "admin"."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.description import json_of
from motet.api.json_body import read_json
from motet.api.records import Format, Since, Until, usage_reply
from motet.api.service import Service
from motet.api.tenant_documents import (
    NewKey,
    Rotation,
    key_document,
    listing,
    made_key_document,
    quota_document,
)
from motet.errors import Forbidden
from motet.tenancy.key_ring import Caller


def own_router(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")
    tenancy = service.tenancy
    depth = service.settings.max_json_depth

    @router.get("/keys")
    async def list_keys(request: Request) -> dict[str, Any]:
        tenant = service.gate.tenant(request, "admin")
        found = await asyncio.to_thread(tenancy.keys.list, tenant)
        return listing([key_document(key) for key in found])

    @router.post("/keys", openapi_extra=json_of(NewKey))
    async def create(request: Request) -> Response:
        caller = _keyed(service, request)
        body = await read_json(request, NewKey, depth)
        made = await asyncio.to_thread(
            tenancy.keys.create, caller.tenant, **body.model_dump(), actor=caller.actor
        )
        return JSONResponse(made_key_document(made), 201)

    @router.post("/keys/{key_id}/rotate", openapi_extra=json_of(Rotation))
    async def rotate(request: Request, key_id: str) -> Response:
        caller = _keyed(service, request)
        body = await read_json(request, Rotation, depth)
        made = await asyncio.to_thread(
            tenancy.keys.rotate, caller.tenant, key_id, grace_s=body.grace_s, actor=caller.actor
        )
        return JSONResponse(made_key_document(made), 201)

    @router.delete("/keys/{key_id}")
    async def revoke(request: Request, key_id: str) -> dict[str, Any]:
        caller = _keyed(service, request)
        await asyncio.to_thread(tenancy.keys.revoke, caller.tenant, key_id, actor=caller.actor)
        return {"id": key_id, "object": "key", "revoked": True}

    @router.get("/quota")
    async def quota(request: Request) -> dict[str, Any]:
        tenant = service.gate.tenant(request)
        return quota_document(tenancy.ring.quota(tenant), tenancy.quota(tenant))

    @router.get("/usage")
    async def usage(
        request: Request, since: Since = None, until: Until = None, format: Format = "json"
    ) -> Response:
        tenant = service.gate.tenant(request, "admin")
        return await usage_reply(service, tenant, since, until, format)

    return router


def _keyed(service: Service, request: Request) -> Caller:
    """Someone who has a key to make keys by. Raises as the gate does."""
    caller = service.gate.caller(request, "admin")
    if caller.key_id is None:
        raise Forbidden(
            "Without tenants there are no keys; the operator begins with: motet tenants create NAME"
        )
    return caller
