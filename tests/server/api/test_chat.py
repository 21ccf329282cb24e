import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.byte_tokenizer import ByteTokenizer
from tests.support.live_server import BASE_NAME, LiveServer, live_server
from tests.support.scripted_engine import DEFAULT_TEXT

HELLO = [{"role": "user", "content": "Hello"}]


def ask(server: LiveServer, **fields: Any) -> Any:
    body = {"model": BASE_NAME, "messages": HELLO, "max_tokens": 6, **fields}
    with server.client("acme") as client:
        reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply


def prompt_of(server: LiveServer, messages: list[dict[str, Any]]) -> str:
    ask(server, messages=messages)
    return bytes(server.engine.seen[-1].prompt).decode()


def test_a_chat_completion_has_openais_form(server: LiveServer) -> None:
    document = ask(server, logprobs=True, top_logprobs=1, max_tokens=1).json()
    assert document["id"].startswith("chatcmpl-")
    assert document["object"] == "chat.completion"
    entry = {"token": "T", "logprob": -0.5, "bytes": [84]}
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "T", "refusal": None},
            "logprobs": {"content": [{**entry, "top_logprobs": [entry]}], "refusal": None},
            "finish_reason": "length",
        }
    ]
    assert ask(server).json()["choices"][0]["logprobs"] is None


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(server: LiveServer) -> None:
    text = ask(server, stream=True, n=2, stream_options={"include_usage": True}).text
    *blocks, done, nothing = text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    opening = {"role": "assistant", "content": ""}
    assert [choice["delta"] for choice in choices[:2]] == [opening, opening]
    assert [choice["index"] for choice in choices[:2]] == [0, 1]
    for index in (0, 1):
        own = [choice for choice in choices if choice["index"] == index]
        told = "".join(choice["delta"].get("content", "") for choice in own)
        assert told == DEFAULT_TEXT[:6]
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12


def test_the_template_gets_roles_and_text(server: LiveServer) -> None:
    told = prompt_of(
        server,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b", "refusal": None, "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": "c"}] * 2},
        ],
    )
    assert told == "<system>Be brief.\n<user>a\n<assistant>b\n<user>c\nc\n<assistant>"


def test_a_developer_speaks_as_the_system(server: LiveServer) -> None:
    assert prompt_of(server, [{"role": "developer", "content": "x"}]).startswith("<system>x\n")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_both_names_of_the_length_work(server: LiveServer, field: str) -> None:
    document = ask(server, **{"max_tokens": None, field: 4}).json()
    assert document["usage"]["completion_tokens"] == 4


def test_without_a_length_the_answer_may_fill_the_context(server: LiveServer) -> None:
    document = ask(server, max_tokens=None).json()
    assert document["choices"][0]["finish_reason"] == "stop"
    request = server.engine.seen[-1]
    assert len(request.prompt) + request.params.max_tokens == server.engine.max_model_len


def test_a_refused_conversation_is_told(tmp_path: Path) -> None:
    with live_server(tmp_path, tokenizer=ByteTokenizer(has_chat_template=False)) as server:
        with server.client("acme") as client:
            body = {"model": BASE_NAME, "messages": HELLO}
            reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "no_chat_template"
        assert server.engine.num_running == 0
