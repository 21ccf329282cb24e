import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import motet.errors
import motet_adapters.errors
import pytest
from motet.api.completions import CompletionShape
from motet.api.errors import refusal
from motet.errors import EngineBusy, MotetError, RequestRefused, Unauthorized
from motet_adapters.errors import AdapterError, AdapterNotFound, AdapterRefused, StoreFull
from starlette.exceptions import HTTPException

from tests.support.live_server import BASE_NAME, LiveServer, live_server

BODY = {"model": BASE_NAME, "prompt": "x", "max_tokens": 3}
LEAK = re.compile(r"/[a-z_]+/[a-z_]+|0x[0-9a-f]{6}|Traceback|Error\(|secret")


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    with live_server(tmp_path) as server:

        def lease(tenant: str, name: str) -> Any:
            raise RuntimeError("secret of /srv/data/secret at 0x7f00deadbeef")

        monkeypatch.setattr(server.store, "lease", lease)
        yield server


def test_an_unexpected_failure_is_a_500_that_tells_nothing(
    failing: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    with failing.client("acme") as client:
        reply = client.post("/v1/completions", json={**BODY, "model": "x"})
        streamed = client.post("/v1/completions", json={**BODY, "model": "x", "stream": True})
        assert client.get("/health").status_code == 200
    for each in (reply, streamed):
        assert each.status_code == 500
        assert each.headers["content-type"] == "application/json"
        assert each.json()["error"]["code"] == "internal_error"
        assert not LEAK.search(each.text)
        # The operator finds the cause under the id that the client was given.
        assert f"request {each.headers['x-request-id']} failed" in caplog.text
    assert "secret of" in caplog.text


def test_an_unexpected_failure_in_a_stream_ends_it_in_order(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def chunk(self: object, piece: object) -> Any:
        raise RuntimeError("secret of /srv/data/secret")

    monkeypatch.setattr(CompletionShape, "chunk", chunk)
    with server.client("acme") as client:
        reply = client.post("/v1/completions", json={**BODY, "stream": True})
    assert reply.status_code == 200
    error, done, nothing = reply.text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert (done, nothing) == ("data: [DONE]", "")
    assert not LEAK.search(reply.text)
    assert "secret of" in caplog.text


def test_an_engine_error_is_told_and_not_repeated(server: LiveServer) -> None:
    server.engine.broken.add("sql")
    try:
        with server.client("acme") as client:
            reply = client.post("/v1/completions", json={**BODY, "model": "sql"})
    finally:
        server.engine.broken.clear()
    assert reply.status_code == 500
    assert reply.headers["x-should-retry"] == "false"
    assert "not finite" in reply.json()["error"]["message"]


def test_a_full_server_says_when_to_come_back(server: LiveServer) -> None:
    server.engine.held.set()
    server.engine.max_waiting = 2
    try:
        with server.client("acme") as client:
            reply = client.post("/v1/completions", json={**BODY, "n": 3})
    finally:
        server.engine.held.clear()
        server.engine.max_waiting = 1024
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["retry-after-ms"] == "1000"
    assert reply.json()["error"]["code"] == "engine_busy"
    # All or nothing: the two that had been taken were cancelled.
    assert server.engine.num_running == 0


def subclasses(kind: type[Exception]) -> list[type[Exception]]:
    return [
        each
        for module in (motet.errors, motet_adapters.errors)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, kind) and each.__module__ == module.__name__
    ]


# These are told to operators at start-up, or arrive as an event of the engine, never as a reply.
NOT_TOLD = {"MotetError", "InvalidSetting", "UnsupportedModel"}
NOT_TOLD |= {"AdapterError", "AdapterLoadFailed", "StoreUnusable"}


@pytest.mark.parametrize("kind", subclasses(MotetError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_server_has_a_status(kind: type[MotetError]) -> None:
    told = refusal(kind("It is so.", "a_code", "a_field"))
    assert (told.status == 500) == (kind.__name__ in NOT_TOLD)
    if told.status != 500:
        assert (told.message, told.code, told.param) == ("It is so.", "a_code", "a_field")


@pytest.mark.parametrize("kind", subclasses(AdapterError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_store_has_a_status(kind: type[AdapterError]) -> None:
    error = kind.__new__(kind)
    error.message, error.code, error.param = "It is so.", "a_code", None
    assert (refusal(error).status == 500) == (kind.__name__ in NOT_TOLD)


def test_statuses_and_headers_are_as_openais_client_expects() -> None:
    assert refusal(Unauthorized("x")).headers == {"www-authenticate": "Bearer"}
    assert refusal(RequestRefused("x")).code == "invalid_request"
    assert refusal(AdapterRefused("x")).status == 422
    assert refusal(AdapterNotFound("x")).status == 404
    assert refusal(StoreFull()).status == 507
    assert refusal(EngineBusy("x")).response().headers["retry-after"] == "1"
    assert refusal(HTTPException(418, "teapot")).status == 418
    assert refusal(ValueError("secret")).message.startswith("The server failed")


def test_a_message_is_never_endless() -> None:
    body = refusal(RequestRefused("x" * 100_000)).body()
    assert len(body["error"]["message"]) == 4000


def test_the_client_sees_one_form_everywhere(server: LiveServer) -> None:
    with httpx.Client(base_url=server.url, verify=False) as client:
        replies = [
            client.get("/nowhere"),
            client.get("/v1/models"),
            client.get("/admin/tenants"),
            client.put("/v1/completions"),
            client.get("/v1/adapters", params={"limit": "x"}),
        ]
    for reply in replies:
        assert 400 <= reply.status_code < 500
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["code"], str)
        assert reply.headers["x-request-id"]
