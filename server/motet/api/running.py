"""From a checked request to a running generation, and back out again, gate by gate."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from motet_adapters import Adapter, Lease
from motet_adapters.errors import AdapterNotFound, AdapterRefused, InvalidName

from motet.api.errors import ModelNotFound
from motet.api.generation import Generation
from motet.api.service import Service
from motet.api.shape import Shape
from motet.engine.request import Request
from motet.errors import RequestRefused
from motet.tenancy.quotas import Quota
from motet.tenancy.rates import Reservation


@asynccontextmanager
async def running(service: Service, tenant: str, shape: Shape) -> AsyncIterator[Generation]:
    """The generation of one HTTP request, from lease to release.

    The gates are entered in order (a place among the tenant's requests, adapter leased, prompts
    tokenised, tokens reserved, sequences submitted) and left in reverse, however it ends. Raises
    MotetError for a request that cannot run.
    """
    tenancy = service.tenancy
    quota = tenancy.quota(tenant)
    async with AsyncExitStack() as gates:
        gates.enter_context(tenancy.rates.under_way(tenant, quota))
        loop = asyncio.get_running_loop()
        if shape.body.adapters:
            lease = await loop.run_in_executor(service.text_threads, _sum, service, tenant, shape)
            adapter: Adapter | None = gates.enter_context(lease).adapter
        else:
            adapter = gates.enter_context(leased(service, tenant, shape.body.model))
        requests = await loop.run_in_executor(
            service.text_threads, _requests, service, tenant, shape, adapter, quota
        )
        num_choices = shape.body.n or 1
        reservation = tenancy.rates.reserve(tenant, quota, _most_tokens(requests, num_choices))
        streamed = bool(shape.body.stream)
        generation = Generation(service, shape.endpoint, adapter, requests, streamed=streamed)
        # Settled when the engine has let go: then it is known what was used.
        gates.callback(_settle, service, tenant, generation, num_choices, reservation)
        gates.enter_context(service.lifecycle.running(generation))
        gates.push_async_callback(generation.close)
        await generation.submit()
        yield generation


@contextmanager
def leased(service: Service, tenant: str, model: str) -> Iterator[Adapter | None]:
    """The adapter that `model` names for this tenant, pinned; None for the base model.

    Raises ModelNotFound alike for a name nobody has, another tenant's, and one that can be none.
    """
    if model == service.model.name:
        yield None
        return
    try:
        lease = service.store.lease(tenant, model)
    except (AdapterNotFound, InvalidName):
        raise ModelNotFound(model) from None
    with lease:
        yield lease.adapter


def _sum(service: Service, tenant: str, shape: Shape) -> Lease:
    """The lease on the request's weighted adapters. Off the event loop: images may be read."""
    if shape.body.model != service.model.name:
        raise RequestRefused(
            f"adapters are added to the base model: set model to {service.model.name}, and name "
            "every adapter in adapters.",
            param="model",
        )
    members = [(each.name, each.weight) for each in shape.body.adapters or ()]
    try:
        return service.store.lease_sum(tenant, members)
    except AdapterNotFound as error:
        raise ModelNotFound(error.name) from None
    except AdapterRefused as error:
        raise RequestRefused(error.message, "adapters_do_not_add", "adapters") from None


def _requests(
    service: Service, tenant: str, shape: Shape, adapter: Adapter | None, quota: Quota
) -> list[Request]:
    """One request per choice; a prompt's choices stand together. Off the event loop, because
    templates, tokens and a thousand biases for each of a thousand choices take their time."""
    prompts = shape.encode()
    num_choices = shape.body.n or 1
    if len(prompts) * num_choices > service.settings.max_waiting:
        raise RequestRefused(
            f"{len(prompts)} prompts with n={num_choices} are more sequences than this server "
            f"takes at once ({service.settings.max_waiting}); send fewer, or lower n.",
            "too_many_sequences",
            "n",
        )
    stem = secrets.token_hex(12)
    requests: list[Request] = []
    longest = service.engine.max_len(adapter)
    for prompt in prompts:
        params = shape.body.sampling(_max_tokens(longest, shape, len(prompt), quota))
        for choice in range(num_choices):
            id = f"{stem}-{len(requests)}"
            requests.append(Request(id, prompt, params.seeded(choice), adapter, tenant))
    return requests


def _max_tokens(longest: int, shape: Shape, prompt_len: int, quota: Quota) -> int:
    """How much to generate. Raises RequestRefused if it does not fit behind the prompt."""
    allowed = quota.tokens_per_minute
    room = longest - prompt_len
    wanted = shape.body.max_len
    if wanted is None and room >= 1:
        if shape.default_len is not None:
            return min(shape.default_len, room)
        # All the room there is; under a quota no more than could ever be let through.
        each = room if allowed is None else (allowed - prompt_len) // (shape.body.n or 1)
        return max(min(room, each), 1)
    if room < 1 or (wanted is not None and wanted > room):
        asked = "" if wanted is None else f" and {wanted} tokens are to be generated"
        raise RequestRefused(
            f"The model's context is {longest} tokens, but the prompt has {prompt_len}{asked}. "
            "Shorten the prompt or lower max_tokens.",
            "context_length_exceeded",
            "messages" if shape.default_len is None else "prompt",
        )
    assert wanted is not None
    return wanted


def _most_tokens(requests: Sequence[Request], num_choices: int) -> int:
    """What a request may come to: each prompt once, and every choice as long as it may get."""
    prompts = sum(len(request.prompt) for request in requests[::num_choices])
    return prompts + sum(request.params.max_tokens for request in requests)


def _settle(
    service: Service,
    tenant: str,
    generation: Generation,
    num_choices: int,
    reservation: Reservation,
) -> None:
    used = generation.used(num_choices)
    reservation.settle(used.prompt_tokens + used.completion_tokens)
    if used.requests:
        name = None if generation.adapter is None else generation.adapter.name
        service.tenancy.usage.add(tenant, name, used)
