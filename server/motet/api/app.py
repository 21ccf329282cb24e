"""The application: routes and layers, put together from parts that exist already."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from motet_adapters import AdapterStore
from motet_adapters.errors import AdapterError
from motet_database import DatabaseFailure
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from motet.api.adapters import adapters_router
from motet.api.admin import quotas_router, tenant_keys_router, tenants_router
from motet.api.auth import Gate
from motet.api.body_limit import BodyLimit
from motet.api.chat import chat_router
from motet.api.completions import completions_router
from motet.api.doors import Doors
from motet.api.errors import refusal
from motet.api.imports import imports_router
from motet.api.kernels import KernelsInUse
from motet.api.lifecycle import Admission, Lifecycle
from motet.api.metrics import Metrics
from motet.api.models import models_router
from motet.api.own import own_router
from motet.api.rate_headers import RateHeaders
from motet.api.records import records_router
from motet.api.request_id import RequestId
from motet.api.schemas import Bounds
from motet.api.service import ServedModel, Service, TextEngine, TextTokenizer
from motet.api.system import system_router
from motet.api.uploads import UploadDesk
from motet.errors import MotetError, RateLimited
from motet.settings import Settings
from motet.tenancy.tenancy import Tenancy

_REFUSED_S = 0.05
"""How long a refusal by a rate limit is held back."""


def build_app(
    settings: Settings,
    engine: TextEngine,
    store: AdapterStore,
    tenancy: Tenancy,
    tokenizer: TextTokenizer,
    model: ServedModel,
    kernels: KernelsInUse,
) -> FastAPI:
    """The server as an ASGI application; its lifespan starts the engine and stops it.

    The store stays the caller's to close, after the application has ended.
    """
    service = Service(
        settings=settings,
        engine=engine,
        store=store,
        tenancy=tenancy,
        tokenizer=tokenizer,
        model=model,
        kernels=kernels,
        gate=Gate(settings, tenancy),
        lifecycle=Lifecycle(settings.drain_timeout_s),
        metrics=Metrics(engine.stats, kernels),
        bounds=Bounds(settings, engine.vocab_size),
        desk=UploadDesk(store, settings.max_uploads, lambda: engine.stats().num_running > 0),
    )
    app = FastAPI(
        title="Motet",
        # The interactive pages load scripts from a network this server may not have.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(service),
        # A redirect to a path with a slash would lose a body; a wrong path is a 404.
        redirect_slashes=False,
        # Outermost first.
        middleware=[
            Middleware(RequestId, metrics=service.metrics),
            Middleware(Doors, admin_port=settings.admin_port),
            Middleware(Admission, lifecycle=service.lifecycle),
            Middleware(BodyLimit, settings=settings),
            Middleware(RateHeaders),
        ],
        exception_handlers={
            MotetError: _tell,
            RateLimited: _tell_later,
            AdapterError: _tell,
            DatabaseFailure: _tell,
            HTTPException: _tell,
            RequestValidationError: _tell,
            ClientDisconnect: _tell_nobody,
        },
    )
    app.state.service = service
    for router in (
        completions_router,
        chat_router,
        models_router,
        adapters_router,
        own_router,
        tenants_router,
        tenant_keys_router,
        quotas_router,
        imports_router,
        records_router,
        system_router,
    ):
        app.include_router(router(service))
    return app


async def _tell(request: Request, error: Exception) -> Response:
    return refusal(error).response()


async def _tell_later(request: Request, error: Exception) -> Response:
    """A client that asks again at once, whatever Retry-After says, is to cost others little."""
    await asyncio.sleep(_REFUSED_S)
    return refusal(error).response()


async def _tell_nobody(request: Request, error: Exception) -> Response:
    """The client left while it was still sending; this reply is for the log."""
    return Response(status_code=499)


def _lifespan(service: Service) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.courier.open(asyncio.get_running_loop())
        service.tenancy.start()
        service.engine.start()
        try:
            yield
        finally:
            # Off the loop, which has to deliver the last events meanwhile.
            await asyncio.to_thread(service.engine.stop)
            await asyncio.to_thread(service.close)
            await asyncio.to_thread(service.tenancy.close)

    return lifespan
