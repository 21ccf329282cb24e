"""From a checked request to a running generation, and back out again, gate by gate."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from motet_adapters import Adapter
from motet_adapters.errors import AdapterNotFound, InvalidName

from motet.api.errors import ModelNotFound
from motet.api.generation import Generation
from motet.api.service import Service
from motet.api.shape import Shape
from motet.engine.request import Request
from motet.errors import RequestRefused


@asynccontextmanager
async def running(service: Service, tenant: str, shape: Shape) -> AsyncIterator[Generation]:
    """The generation of one HTTP request, from lease to release.

    The gates are entered in order (adapter leased, prompts tokenised, sequences submitted) and
    left in reverse, however it ends. Raises MotetError for a request that cannot run.
    """
    async with AsyncExitStack() as gates:
        adapter = gates.enter_context(leased(service, tenant, shape.body.model))
        loop = asyncio.get_running_loop()
        requests = await loop.run_in_executor(
            service.text_threads, _requests, service, tenant, shape, adapter
        )
        streamed = bool(shape.body.stream)
        generation = Generation(service, shape.endpoint, adapter, requests, streamed=streamed)
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


def _requests(
    service: Service, tenant: str, shape: Shape, adapter: Adapter | None
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
    for prompt in prompts:
        params = shape.body.sampling(_max_tokens(service, shape, len(prompt)))
        for choice in range(num_choices):
            id = f"{stem}-{len(requests)}"
            requests.append(Request(id, prompt, params.seeded(choice), adapter, tenant))
    return requests


def _max_tokens(service: Service, shape: Shape, prompt_len: int) -> int:
    """How much to generate. Raises RequestRefused if it does not fit behind the prompt."""
    longest = service.engine.max_model_len
    room = longest - prompt_len
    wanted = shape.body.max_len
    if wanted is None and room >= 1:
        return room if shape.default_len is None else min(shape.default_len, room)
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
