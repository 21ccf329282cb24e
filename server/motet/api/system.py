"""What operators and their machines ask: /health, /ready, /metrics."""

from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from motet.api.metrics import CONTENT_TYPE
from motet.api.service import Service


def system_router(service: Service) -> APIRouter:
    router = APIRouter()
    kernels = {name: value for name, value in asdict(service.kernels).items() if value is not None}

    @router.get("/health")
    async def health() -> Response:
        """Whether the process is worth keeping, and what it computes with. Whatever the load."""
        healthy = service.engine.healthy
        return _state(healthy, "ok" if healthy else "the engine has failed", kernels=kernels)

    @router.get("/ready")
    async def ready() -> Response:
        """Whether to send requests here."""
        if service.lifecycle.draining:
            return _state(False, "shutting down")
        healthy = service.engine.healthy
        return _state(healthy, "ok" if healthy else "the engine does not run")

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        service.gate.require_operator(request)
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router


def _state(good: bool, status: str, **more: object) -> JSONResponse:
    return JSONResponse({"status": status, **more}, 200 if good else 503)
