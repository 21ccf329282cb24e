"""The client of the systems that are servers: OpenAI's completions over HTTP, all at once."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import httpx

from benchmarks.serving.child import Child
from benchmarks.serving.system import Batch, Run

_TIMEOUT_S = 1800.0
_POLL_S = 0.2


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_ready(url: str, child: Child, timeout_s: float) -> None:
    """Returns once `url` answers 200. Raises RuntimeError if the server ends, or takes longer."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        child.check_alive()
        try:
            if httpx.get(url, timeout=5.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(_POLL_S)
    raise RuntimeError(f"no answer from {url} in {timeout_s:.0f} s:\n{child.last_words()}")


def complete(url: str, base: str, batch: Batch, *, stream: bool) -> Run:
    """Sends every prompt as a request of its own; the clock runs from the first to the last byte.

    base: what the server calls the base model. Raises RuntimeError for any answer but one of
    exactly `batch.num_tokens` tokens.
    """
    return asyncio.run(_complete(f"{url}/v1/completions", base, batch, stream))


async def _complete(url: str, base: str, batch: Batch, stream: bool) -> Run:
    limits = httpx.Limits(max_connections=len(batch.prompts))
    async with httpx.AsyncClient(timeout=_TIMEOUT_S, limits=limits, trust_env=False) as client:
        bodies = [
            _body(prompt, adapter or base, batch.num_tokens, stream)
            for prompt, adapter in zip(batch.prompts, batch.adapters, strict=True)
        ]
        answer = _stream if stream else _whole
        begun = time.perf_counter()
        counts = await asyncio.gather(*(answer(client, url, body) for body in bodies))
        seconds = time.perf_counter() - begun
    if any(count != batch.num_tokens for count in counts):
        raise RuntimeError(f"asked for {batch.num_tokens} tokens each, got {counts}")
    return Run(sum(counts), seconds)


def _body(prompt: object, model: str, num_tokens: int, stream: bool) -> dict[str, Any]:
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


async def _whole(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> int:
    reply = await client.post(url, json=body)
    if reply.status_code != httpx.codes.OK:
        raise RuntimeError(f"{reply.status_code} from {url}: {reply.text}")
    count: int = reply.json()["usage"]["completion_tokens"]
    return count


async def _stream(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> int:
    """The usage is in the last event but `[DONE]`; those before it are read and dropped."""
    last = ""
    async with client.stream("POST", url, json=body) as reply:
        if reply.status_code != httpx.codes.OK:
            raise RuntimeError(f"{reply.status_code} from {url}: {await reply.aread()!r}")
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                last = line
    count: int = json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"]
    return count
