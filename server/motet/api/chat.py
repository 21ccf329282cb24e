"""POST /v1/chat/completions."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from motet.api.answer import Answer
from motet.api.chat_request import ChatRequest
from motet.api.description import json_of
from motet.api.json_body import read_json
from motet.api.piece import Piece, shown
from motet.api.service import Service
from motet.engine.request import LogProb


def chat_router(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", openapi_extra=json_of(ChatRequest))
    async def chat(request: Request) -> Response:
        tenant = service.gate.tenant(request, "infer")
        depth = service.settings.max_json_depth
        body = await read_json(request, ChatRequest, depth, service.bounds)
        return Answer(service, tenant, ChatShape(service, body))

    return router


class ChatShape:
    """A chat completion in OpenAI's form."""

    endpoint = "chat"
    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    default_len = None

    def __init__(self, service: Service, body: ChatRequest) -> None:
        self.body = body
        self._service = service
        self._tokenizer = service.tokenizer

    def encode(self) -> Sequence[tuple[int, ...]]:
        turns = self.body.turns()
        num_chars = sum(len(turn["content"]) for turn in turns)
        self._service.require_tokenisable(num_chars, "messages")
        return [tuple(self._tokenizer.apply_chat(turns))]

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.index,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": self._logprobs(piece),
            "finish_reason": piece.finish_reason,
        }

    def choice(self, whole: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": whole.text, "refusal": None}
        return {
            "index": whole.index,
            "message": message,
            "logprobs": self._logprobs(whole),
            "finish_reason": whole.finish_reason,
        }

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if self.body.num_top_logprobs is None:
            return None
        return {"content": [self._entry(each) for each in piece.logprobs], "refusal": None}

    def _entry(self, each: LogProb) -> dict[str, Any]:
        top = [self._token(id, logprob) for id, logprob in each.top]
        return {**self._token(each.token_id, each.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._tokenizer.token_text(token_id)
        # A token of half a character is shown as U+FFFD, whose bytes are not the token's.
        raw = None if "\ufffd" in text else list(text.encode())
        return {"token": text, "logprob": shown(logprob), "bytes": raw}
