"""The answer to a request for text, whole or streamed: one route's work for both forms."""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Any

from motet_adapters.errors import AdapterError
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from motet.api.errors import refusal
from motet.api.generation import Generation
from motet.api.piece import Piece, usage
from motet.api.running import running
from motet.api.service import Service
from motet.api.shape import Shape
from motet.api.sse import PING, ClientGone, EventStream, event
from motet.engine.request import Finished
from motet.errors import MotetError

_PING_S = 15.0
_log = logging.getLogger("motet.api")


class Answer(Response):
    """Runs the request when it is sent, so that all it holds is held in one frame."""

    def __init__(self, service: Service, tenant: str, shape: Shape) -> None:
        self._service = service
        self._tenant = tenant
        self._shape = shape
        self._id = f"{shape.id_prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._started = time.perf_counter()
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with running(self._service, self._tenant, self._shape) as generation:
                watcher = asyncio.create_task(_watch(receive, generation))
                try:
                    if self._shape.body.stream:
                        await self._stream(generation, self._event_stream(scope, send))
                        return
                    reply = await self._whole(generation)
                finally:
                    watcher.cancel()
            await reply(scope, receive, send)
        except ClientGone as error:
            _log.info("request %s was cancelled: %s", scope["state"]["request_id"], error)

    async def _whole(self, generation: Generation) -> Response:
        choices = [Piece(index) for index in range(generation.num_choices)]
        while not all(choice.finished for choice in choices):
            for piece in await generation.pieces(_PING_S) or ():
                choices[piece.index].append(piece)
        document = self._document(generation, self._shape.whole_object)
        document["choices"] = [self._shape.choice(choice) for choice in choices]
        document["usage"] = self._usage([choice.finished for choice in choices])
        headers = self._reply_headers(generation)
        headers["openai-processing-ms"] = str(round((time.perf_counter() - self._started) * 1000))
        return JSONResponse(document, headers=headers)

    async def _stream(self, generation: Generation, stream: EventStream) -> None:
        await stream.open(self._reply_headers(generation))
        try:
            await self._events(generation, stream)
        except ClientGone:
            raise
        except (MotetError, AdapterError) as error:
            await stream.write(event(refusal(error).body()))
        except Exception as error:
            # The status line is out, so this is the edge for whatever else goes wrong.
            _log.exception("a stream failed")
            await stream.write(event(refusal(error).body()))
        await stream.close()

    async def _events(self, generation: Generation, stream: EventStream) -> None:
        openings = [self._shape.opening(index) for index in range(generation.num_choices)]
        await self._write(generation, stream, [opening for opening in openings if opening])
        ends: list[Finished | None] = [None] * generation.num_choices
        while not all(ends):
            pieces = await generation.pieces(_PING_S)
            if pieces is None:
                await stream.write(PING)
                continue
            for piece in pieces:
                ends[piece.index] = piece.finished
            await self._write(generation, stream, [self._shape.chunk(piece) for piece in pieces])
        if self._shape.body.include_usage:
            document = self._document(generation, self._shape.chunk_object)
            await stream.write(event({**document, "choices": [], "usage": self._usage(ends)}))

    async def _write(
        self, generation: Generation, stream: EventStream, choices: Sequence[dict[str, Any]]
    ) -> None:
        """One event per choice: clients look at the first choice of a chunk only."""
        document = self._document(generation, self._shape.chunk_object)
        usage = {"usage": None} if self._shape.body.include_usage else {}
        events = [event({**document, "choices": [choice], **usage}) for choice in choices]
        if events:
            await stream.write(b"".join(events))

    def _document(self, generation: Generation, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._shape.body.model,
            "system_fingerprint": self._fingerprint(generation),
        }

    def _fingerprint(self, generation: Generation) -> str:
        """Changes exactly when the weights that answer do."""
        base = self._service.model.fingerprint[:12]
        adapter = generation.adapter
        return f"fp_{base}" if adapter is None else f"fp_{base}_{adapter.digest[:12]}"

    def _reply_headers(self, generation: Generation) -> dict[str, str]:
        adapter = generation.adapter
        return {} if adapter is None else {"x-adapter-digest": adapter.digest}

    def _usage(self, ends: Sequence[Finished | None]) -> dict[str, Any]:
        return usage([end for end in ends if end is not None], self._shape.body.n or 1)

    def _event_stream(self, scope: Scope, send: Send) -> EventStream:
        timeout_s = self._service.settings.client_timeout_s
        return EventStream(send, timeout_s, scope["state"].get("abort"))


async def _watch(receive: Receive, generation: Generation) -> None:
    """Ends the generation when the client hangs up. The body has been read, so nothing else can
    come."""
    while (await receive())["type"] != "http.disconnect":
        continue
    generation.fail(ClientGone("the client hung up"))
