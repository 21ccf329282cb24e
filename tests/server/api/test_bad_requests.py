"""All a client can get wrong in a request for text: a 4xx that names the fix, and no more."""

import json
import time
from typing import Any

import pytest

from tests.support.live_server import BASE_NAME, LiveServer

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]

# name -> (changed fields, status, code, param, words of the message)
BOTH: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "unknown": ({"temprature": 1}, "unknown_parameter", "temprature", "Did you mean 'temperature'"),
    "unknown option": (
        {"stream": True, "stream_options": {"usage": True}},
        "unknown_parameter",
        "stream_options.usage",
        "not known",
    ),
    "n too large": ({"n": 17}, "invalid_parameter", "n", "at most 16"),
    "n huge": ({"n": 10**30}, "invalid_parameter", "n", "n"),
    "n zero": ({"n": 0}, "invalid_parameter", "n", "greater than or equal to 1"),
    "n text": ({"n": "3"}, "invalid_parameter", "n", "integer"),
    "n bool": ({"n": True}, "invalid_parameter", "n", "integer"),
    "n float": ({"n": 1.5}, "invalid_parameter", "n", "integer"),
    "no tokens": ({"max_tokens": 0}, "invalid_parameter", "max_tokens", "greater than"),
    "min over max": (
        {"max_tokens": 4, "min_tokens": 5},
        "invalid_parameter",
        "min_tokens",
        "at most max_tokens",
    ),
    "hot": ({"temperature": 2.1}, "invalid_parameter", "temperature", "less than or equal to 2"),
    "cold": ({"temperature": -0.1}, "invalid_parameter", "temperature", "greater than"),
    "top_p zero": ({"top_p": 0}, "invalid_parameter", "top_p", "greater than 0"),
    "top_k": ({"top_k": -1}, "invalid_parameter", "top_k", "greater than or equal to 0"),
    "min_p": ({"min_p": 1.1}, "invalid_parameter", "min_p", "less than"),
    "seed": ({"seed": 2**63}, "invalid_parameter", "seed", "less than"),
    "repetition": (
        {"repetition_penalty": 0},
        "invalid_parameter",
        "repetition_penalty",
        "greater than 0",
    ),
    "presence": ({"presence_penalty": 3}, "invalid_parameter", "presence_penalty", "less than"),
    "stop too many": ({"stop": ["a"] * 5}, "invalid_parameter", "stop", "at most 4"),
    "stop too long": ({"stop": "a" * 257}, "invalid_parameter", "stop", "1 to 256"),
    "stop empty": ({"stop": [""]}, "invalid_parameter", "stop", "1 to 256"),
    "stop ids": ({"stop_token_ids": [257]}, "invalid_parameter", "stop_token_ids", "0 to 256"),
    "stop ids many": (
        {"stop_token_ids": [1] * 65},
        "invalid_parameter",
        "stop_token_ids",
        "at most 64",
    ),
    "bias many": (
        {"logit_bias": {str(i): 1 for i in range(1025)}},
        "invalid_parameter",
        "logit_bias",
        "at most 1024",
    ),
    "bias id": ({"logit_bias": {"257": 1}}, "invalid_parameter", "logit_bias", "0 to 256"),
    "bias key": ({"logit_bias": {"-1": 1}}, "invalid_parameter", "logit_bias", "token ids"),
    "bias key long": ({"logit_bias": {"9" * 5000: 1}}, "invalid_parameter", "logit_bias", "keys"),
    "bias value": ({"logit_bias": {"1": 101}}, "invalid_parameter", "logit_bias", "-100 to 100"),
    "options alone": (
        {"stream_options": {"include_usage": True}},
        "invalid_parameter",
        "stream_options",
        "needs stream",
    ),
    "model type": ({"model": 3}, "invalid_parameter", "model", "string"),
    "model empty": ({"model": ""}, "invalid_parameter", "model", "at least 1"),
    "too long": ({"max_tokens": 5000}, "context_length_exceeded", None, "Shorten the prompt"),
    "schema": (
        {"response_format": {"type": "json_object"}},
        "unsupported_parameter",
        "response_format",
        "not supported",
    ),
}
ONLY_COMPLETIONS: dict[str, tuple[dict[str, Any], str, str | None, str]] = {
    "no prompt": ({"prompt": None}, "invalid_parameter", "prompt", "string, token ids"),
    "empty": ({"prompt": ""}, "invalid_parameter", "prompt", "not be empty"),
    "no prompts": ({"prompt": []}, "invalid_parameter", "prompt", "1 to 128"),
    "an empty one": ({"prompt": ["a", []]}, "invalid_parameter", "prompt", "not be empty"),
    "mixed": ({"prompt": ["a", 1]}, "invalid_parameter", "prompt", "string, token ids"),
    "deep": ({"prompt": [[[1]]]}, "invalid_parameter", "prompt", "string, token ids"),
    "object": ({"prompt": {"a": 1}}, "invalid_parameter", "prompt", "string, token ids"),
    "token": ({"prompt": [257]}, "invalid_parameter", "prompt", "0 to 256"),
    "token negative": ({"prompt": [-1]}, "invalid_parameter", "prompt", "0 to 256"),
    "token huge": ({"prompt": [10**40]}, "invalid_parameter", "prompt", "0 to 256"),
    "many": ({"prompt": ["a"] * 129}, "invalid_parameter", "prompt", "1 to 128"),
    "many tokens": ({"prompt": [1] * 3000}, "context_length_exceeded", "prompt", "3000"),
    "many chars": ({"prompt": "x" * 300_000}, "context_length_exceeded", "prompt", "300000 char"),
    "sequences": ({"prompt": ["a"] * 128, "n": 9}, "too_many_sequences", "n", "1152|128 prompts"),
    "logprobs": ({"logprobs": 21}, "invalid_parameter", "logprobs", "0 to 20"),
    "logprobs bool": ({"logprobs": True}, "invalid_parameter", "logprobs", "integer"),
    "suffix": ({"suffix": "x"}, "unsupported_parameter", "suffix", "not supported"),
    "echo": ({"echo": True}, "unsupported_parameter", "echo", "not supported"),
    "best_of": ({"best_of": 2}, "unsupported_parameter", "best_of", "not supported"),
    "messages": ({"messages": HELLO}, "unknown_parameter", "messages", "not known"),
}
ONLY_CHAT: dict[str, tuple[dict[str, Any], str, str | None, str]] = {
    "none": ({"messages": []}, "invalid_parameter", "messages", "at least 1"),
    "many": ({"messages": HELLO * 2049}, "invalid_parameter", "messages", "at most 2048"),
    "text": ({"messages": "Hello"}, "invalid_parameter", "messages", "list"),
    "entry": ({"messages": ["Hello"]}, "invalid_parameter", "messages.0", "messages.0"),
    "role": (
        {"messages": [{"role": "king", "content": "x"}]},
        "invalid_parameter",
        "messages.0.role",
        "'user'",
    ),
    "tool": (
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
        "invalid_parameter",
        "messages",
        "tool and function are not supported",
    ),
    "field": (
        {"messages": [{"role": "user", "content": "x", "colour": 1}]},
        "unknown_parameter",
        "messages.0.colour",
        "not known",
    ),
    "name": (
        {"messages": [{"role": "user", "content": "x", "name": "Bob"}]},
        "unsupported_parameter",
        "messages: name",
        "not supported",
    ),
    "no content": (
        {"messages": [{"role": "user"}]},
        "missing_parameter",
        "messages.0.content",
        "required",
    ),
    "null content": (
        {"messages": [{"role": "assistant", "content": None}]},
        "invalid_parameter",
        "messages",
        "needs content",
    ),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "invalid_parameter",
        "messages",
        "images, audio and files are not",
    ),
    "audio": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "invalid_parameter",
        "messages",
        "only text parts",
    ),
    "part": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "invalid_parameter",
        "messages",
        "type and text",
    ),
    "no parts": (
        {"messages": [{"role": "user", "content": []}]},
        "invalid_parameter",
        "messages",
        "empty list",
    ),
    "top alone": ({"top_logprobs": 2}, "invalid_parameter", "top_logprobs", "needs logprobs"),
    "top": (
        {"logprobs": True, "top_logprobs": 21},
        "invalid_parameter",
        "top_logprobs",
        "0 to 20",
    ),
    "lengths": (
        {"max_tokens": 3, "max_completion_tokens": 3},
        "invalid_parameter",
        "max_tokens",
        "not both",
    ),
    "tools": ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools", "not supp"),
    "tool_choice": ({"tool_choice": "auto"}, "unsupported_parameter", "tool_choice", "not supp"),
    "modalities": ({"modalities": ["audio"]}, "unsupported_parameter", "modalities", "not supp"),
    "audio out": ({"audio": {"voice": "x"}}, "unsupported_parameter", "audio", "not supp"),
    "kwargs": (
        {"chat_template_kwargs": {"tokenize": True}},
        "unsupported_parameter",
        "chat_template_kwargs",
        "not supp",
    ),
    "many chars": (
        {"messages": [{"role": "user", "content": "x" * 100_000}] * 3},
        "context_length_exceeded",
        "messages",
        "300000 characters",
    ),
    "long": (
        {"messages": [{"role": "user", "content": "x" * 3000}]},
        "context_length_exceeded",
        "messages",
        "Shorten the prompt",
    ),
}


def refused(server: LiveServer, path: str, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The reply, after everything that must hold of any refusal has been checked."""
    body: dict[str, Any] = {"model": BASE_NAME, "max_tokens": 4}
    body |= {"prompt": "Hello"} if path == COMPLETIONS else {"messages": HELLO}
    if "max_completion_tokens" not in fields and fields.get("messages") == [
        {"role": "user", "content": "x" * 3000}
    ]:
        del body["max_tokens"]
    before = len(server.engine.seen)
    started = time.perf_counter()
    with server.client("acme") as client:
        reply = client.post(path, json=body | fields)
    seconds = time.perf_counter() - started
    assert len(server.engine.seen) == before
    assert len(reply.content) < 8192
    assert reply.headers["x-request-id"]
    # Generous, because the machine is shared: a refusal computes nothing.
    assert seconds < 10
    error: dict[str, Any] = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"].endswith((".", "?"))
    return reply.status_code, error


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("name", BOTH)
def test_a_common_field_is_refused(server: LiveServer, path: str, name: str) -> None:
    fields, code, param, words = BOTH[name]
    status, error = refused(server, path, fields)
    assert status == 400
    assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("name", ONLY_COMPLETIONS)
def test_a_completion_is_refused(server: LiveServer, name: str) -> None:
    fields, code, param, words = ONLY_COMPLETIONS[name]
    status, error = refused(server, COMPLETIONS, fields)
    assert (status, error["code"], error["param"]) == (400, code, param)
    assert any(each in error["message"] for each in words.split("|"))


@pytest.mark.parametrize("name", ONLY_CHAT)
def test_a_chat_is_refused(server: LiveServer, name: str) -> None:
    fields, code, param, words = ONLY_CHAT[name]
    status, error = refused(server, CHAT, fields)
    assert (status, error["code"], error["param"]) == (400, code, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"nonsense", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"text"', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"model": "x", "temperature": NaN}', "invalid_json"),
        (b'{"model": "x", "temperature": Infinity}', "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b'{"metadata": ' + b"[" * 65 + b"]" * 65 + b"}", "json_too_deep"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
        (json.dumps({"model": BASE_NAME}).encode(), "missing_parameter"),
    ],
)
def test_a_malformed_body_is_refused(server: LiveServer, body: bytes, code: str) -> None:
    with server.client("acme") as client:
        headers = {"content-type": "application/json"}
        reply = client.post(COMPLETIONS, content=body, headers=headers)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == code
    assert len(reply.content) < 1024


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_is_not_declared_json_is_refused(server: LiveServer, kind: str | None) -> None:
    with server.client("acme") as client:
        headers = {} if kind is None else {"content-type": kind}
        reply = client.post(COMPLETIONS, content=b"{}", headers=headers)
    assert reply.status_code == 415
    assert "Content-Type: application/json" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "model", ["nobody", "../../etc/passwd", "A" * 256, "x\u202e\n", "sql ", "%2e%2e"]
)
def test_an_unknown_model_is_a_404(server: LiveServer, model: str) -> None:
    for path, extra in ((COMPLETIONS, {"prompt": "x"}), (CHAT, {"messages": HELLO})):
        with server.client("acme") as client:
            reply = client.post(path, json={"model": model, **extra})
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert error["message"].isascii()


def test_wrong_routes_and_methods_are_told_in_the_same_form(server: LiveServer) -> None:
    with server.client("acme") as client:
        missing, method = client.get("/v1/nothing"), client.get(COMPLETIONS)
        slash = client.post(COMPLETIONS + "/", json={})
    assert missing.status_code == slash.status_code == 404
    assert missing.json()["error"]["code"] == "route_not_found"
    assert method.status_code == 405
    assert method.headers["allow"] == "POST"
    assert method.json()["error"]["code"] == "method_not_allowed"


def test_a_given_request_id_is_kept_if_it_is_one(server: LiveServer) -> None:
    with server.client("acme") as client:
        kept = client.get("/health", headers={"x-request-id": "abc-123"})
        made = client.get("/health", headers={"x-request-id": "a b" * 90})
        other = client.get("/health")
    assert kept.headers["x-request-id"] == "abc-123"
    assert len(made.headers["x-request-id"]) == 32
    assert made.headers["x-request-id"] != other.headers["x-request-id"]
