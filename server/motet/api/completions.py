"""POST /v1/completions."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from motet.api.answer import Answer
from motet.api.completion_request import CompletionRequest, Prompt
from motet.api.description import json_of
from motet.api.json_body import read_json
from motet.api.piece import Piece, shown
from motet.api.service import Service
from motet.errors import RequestRefused

_DEFAULT_LEN = 16  # OpenAI's


def completions_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/completions", openapi_extra=json_of(CompletionRequest))
    async def complete(request: Request) -> Response:
        tenant = service.gate.tenant(request, "infer")
        depth = service.settings.max_json_depth
        body = await read_json(request, CompletionRequest, depth, service.bounds)
        return Answer(service, tenant, CompletionShape(service, body))

    return router


class CompletionShape:
    """A completion in OpenAI's form. Remembers how far each choice's text has come."""

    endpoint = "completions"
    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"
    default_len = _DEFAULT_LEN

    def __init__(self, service: Service, body: CompletionRequest) -> None:
        self.body = body
        self._service = service
        self._tokenizer = service.tokenizer
        self._offsets: dict[int, int] = {}

    def encode(self) -> Sequence[tuple[int, ...]]:
        return [self._tokens(prompt) for prompt in self.body.prompts]

    def opening(self, index: int) -> None:
        return None

    def chunk(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.index,
            "text": piece.text,
            "logprobs": self._logprobs(piece),
            "finish_reason": piece.finish_reason,
        }

    def choice(self, whole: Piece) -> dict[str, Any]:
        return self.chunk(whole)

    def _tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return prompt
        self._service.require_tokenisable(len(prompt), "prompt")
        tokens = tuple(self._tokenizer.encode(prompt))
        if not tokens:
            raise RequestRefused("The prompt has no tokens; send some text.", param="prompt")
        return tokens

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        """Parallel lists. `top_logprobs` holds the chosen token too, as OpenAI's does."""
        if self.body.num_top_logprobs is None:
            return None
        texts = [self._tokenizer.token_text(each.token_id) for each in piece.logprobs]
        top = [
            {self._tokenizer.token_text(id): shown(logprob) for id, logprob in each.top}
            | {text: shown(each.logprob)}
            for text, each in zip(texts, piece.logprobs, strict=True)
        ]
        offsets = []
        offset = self._offsets.get(piece.index, 0)
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        self._offsets[piece.index] = offset
        return {
            "tokens": texts,
            "token_logprobs": [shown(each.logprob) for each in piece.logprobs],
            "top_logprobs": top,
            "text_offset": offsets,
        }
