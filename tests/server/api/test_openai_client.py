"""The official client, unmodified, over a socket."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.support.adapter_files import random_adapter
from tests.support.live_server import BASE_NAME, LiveServer
from tests.support.scripted_engine import DEFAULT_TEXT

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.keys["acme"]) as client:
        yield client


def test_whole_answers(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="sql", messages=HELLO, max_tokens=5, logprobs=True, top_logprobs=2
    )
    assert chat.choices[0].message.content == DEFAULT_TEXT[:5]
    assert chat.choices[0].logprobs.content[0].top_logprobs[1].token == "U"
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + 5
    text = client.completions.create(model=BASE_NAME, prompt="Sing", max_tokens=5, n=2)
    assert [choice.text for choice in text.choices] == [DEFAULT_TEXT[:5]] * 2


def test_streams(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="french",
        messages=HELLO,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told == DEFAULT_TEXT[:20]
    assert chunks[-1].usage.completion_tokens == 20
    pieces = client.completions.create(model="french", prompt="x", max_tokens=20, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == DEFAULT_TEXT[:20]


def test_the_clients_own_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="sql", messages=HELLO) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == DEFAULT_TEXT
    assert final.choices[0].finish_reason == "stop"


def test_an_answer_can_be_sent_back_as_a_message(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model=BASE_NAME, messages=HELLO, max_tokens=5)
    turns = [*HELLO, first.choices[0].message, {"role": "user", "content": "More"}]
    assert client.chat.completions.create(model=BASE_NAME, messages=turns, max_tokens=5).choices


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [BASE_NAME, "french", "sql"]
    assert client.models.retrieve(BASE_NAME).owned_by == "motet"
    assert client.models.retrieve("sql").owned_by == "acme"


def test_errors_become_the_clients_own(server: LiveServer, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="sql", messages=HELLO, temperature=9)
    assert refused.value.param == "temperature"
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_an_error_in_a_stream_is_raised(server: LiveServer, client: openai.OpenAI) -> None:
    server.engine.broken.add("sql")
    try:
        with pytest.raises(openai.APIError, match="not finite"):
            list(client.completions.create(model="sql", prompt="x", stream=True))
        with pytest.raises(openai.InternalServerError, match="not finite"):
            client.completions.create(model="sql", prompt="x")
    finally:
        server.engine.broken.clear()
    # Told not to, the client did not send it a second time.
    assert server.engine.ends["error"] == 2


def test_32_at_once_over_4_models(server: LiveServer) -> None:
    random_adapter(server.base, seed=9).put(server.store, "acme", "terse")
    models = [BASE_NAME, "french", "sql", "terse"]

    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        model = models[number % 4]
        if number % 2:
            chat = await client.chat.completions.create(
                model=model, messages=HELLO, max_tokens=number + 1
            )
            return chat.choices[0].message.content or ""
        stream: AsyncIterator[openai.types.Completion] = await client.completions.create(
            model=model, prompt=f"{number}", max_tokens=number + 1, stream=True
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def ask_all() -> list[str]:
        url, key = f"{server.url}/v1", server.keys["acme"]
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(32)))

    before = len(server.engine.seen)
    assert asyncio.run(ask_all()) == [DEFAULT_TEXT[: number + 1] for number in range(32)]
    names = [request.adapter and request.adapter.name for request in server.engine.seen[before:]]
    assert Counter(names) == {None: 8, "french": 8, "sql": 8, "terse": 8}
    server.store.delete("acme", "terse")


def test_stream_events_are_plain_json_lines(server: LiveServer) -> None:
    body = {"model": BASE_NAME, "prompt": "x", "max_tokens": 3, "stream": True}
    with server.client("acme") as client, client.stream("POST", "/v1/completions", json=body) as r:
        lines = [line for line in r.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: ")) for line in lines[:-1])
