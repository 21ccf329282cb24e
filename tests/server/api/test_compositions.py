"""Several adapters in one request, by name and weight."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.adapter_files import random_adapter
from tests.support.live_server import BASE_NAME, LiveServer


def ask(server: LiveServer, tenant: str = "acme", **fields: Any) -> httpx.Response:
    body = {"model": BASE_NAME, "prompt": "Sing", "max_tokens": 4, **fields}
    with server.client(tenant) as client:
        return client.post("/v1/completions", json=body)


@pytest.fixture(autouse=True)
def second_adapter(server: LiveServer) -> None:
    random_adapter(server.base, seed=9, dora=True).put(server.store, name="tone")


def test_the_engine_is_given_their_sum_as_one_adapter(server: LiveServer) -> None:
    adapters = [{"name": "sql", "weight": 0.7}, {"name": "tone", "weight": -0.5}]
    reply = ask(server, adapters=adapters)
    assert reply.status_code == 200, reply.text
    seen = server.engine.seen[-1]
    assert seen.adapter is not None
    assert (seen.adapter.name, seen.adapter.kind) == ("sql+tone", "composition")
    assert reply.headers["x-adapter-digest"] == seen.adapter.digest
    assert reply.json()["model"] == BASE_NAME
    expected = server.store.lease_sum("acme", [("sql", 0.7), ("tone", -0.5)])
    assert expected.adapter.digest == seen.adapter.digest
    expected.release()
    one = ask(server, adapters=[{"name": "sql"}])
    assert one.headers["x-adapter-digest"] != server.store.get("acme", "sql").digest


def test_chat_takes_them_too(server: LiveServer) -> None:
    body = {
        "model": BASE_NAME,
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": 2,
        "adapters": [{"name": "sql"}, {"name": "tone"}],
    }
    with server.client("acme") as client:
        reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert server.engine.seen[-1].adapter.name == "sql+tone"  # type: ignore[union-attr]


def test_an_adapter_that_is_missing_or_anothers_is_no_model(server: LiveServer) -> None:
    missing = ask(server, adapters=[{"name": "sql"}, {"name": "nothing"}])
    plain = ask(server, model="nothing")
    assert missing.status_code == plain.status_code == 404
    assert missing.json() == plain.json()
    foreign = ask(server, "other", adapters=[{"name": "tone"}])
    assert foreign.status_code == 404
    assert foreign.json() == ask(server, "other", model="tone").json()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapters": [{"name": "sql"}], "model": "sql"}, "set model to"),
        ({"adapters": [{"name": "sql"}, {"name": "sql"}]}, "twice"),
        ({"adapters": [{"name": "sql", "weight": 1e9}]}, "-100 to 100"),
        ({"adapters": [{"name": "sql", "weight": "1"}]}, "weight"),
        ({"adapters": [{"name": "sql", "scale": 1}]}, "scale"),
        ({"adapters": []}, "adapters"),
        ({"adapters": [{"name": f"a{i}"} for i in range(9)]}, "adapters"),
        ({"adapters": "sql"}, "adapters"),
    ],
)
def test_what_is_wrong_with_them_is_said(
    server: LiveServer, fields: dict[str, Any], message: str
) -> None:
    reply = ask(server, **fields)
    assert reply.status_code == 400, reply.text
    assert message in reply.text
