"""GET /v1/models: the base and this tenant's adapters, nobody else's."""

from typing import Any

from fastapi import APIRouter
from motet_adapters import Adapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.running import leased
from motet.api.service import Service


def models_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models")
    async def list_models(request: Request) -> Response:
        tenant = service.gate.tenant(request)
        adapters = service.store.list(tenant)
        data = [_base(service), *(_adapter(service, adapter) for adapter in adapters)]
        # A response of our own: FastAPI would look into each field of each of thousands again.
        return JSONResponse({"object": "list", "data": data})

    # A base's name may hold slashes, as a hub's do.
    @router.get("/v1/models/{model:path}")
    async def get_model(request: Request, model: str) -> dict[str, Any]:
        tenant = service.gate.tenant(request)
        with leased(service, tenant, model) as adapter:
            return _base(service) if adapter is None else _adapter(service, adapter)

    return router


def _base(service: Service) -> dict[str, Any]:
    return {
        "id": service.model.name,
        "object": "model",
        "created": service.model.created,
        "owned_by": "motet",
        "parent": None,
        "max_model_len": service.engine.max_model_len,
    }


def _adapter(service: Service, adapter: Adapter) -> dict[str, Any]:
    return {
        "id": adapter.name,
        "object": "model",
        "created": adapter.created,
        "owned_by": service.tenancy.ring.name(adapter.tenant),
        "parent": service.model.name,
        "max_model_len": service.engine.max_model_len,
    }
