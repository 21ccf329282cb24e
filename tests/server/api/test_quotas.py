"""Limits of one tenant, seen from outside; the official client among those who run into them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from motet.tenancy.rates import duration

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.live_server import BASE_NAME, LiveServer, eventually, live_server
from tests.support.scripted_engine import ScriptedEngine

WINDOW_S = 2
TEXT = {"model": BASE_NAME, "prompt": "x" * 10, "max_tokens": 40}  # 50 tokens with this tokenizer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, tenants=("busy", "other"), window_s=WINDOW_S) as running:
        yield running


def limit(server: LiveServer, **limits: int) -> None:
    server.tenancy.quotas.set("busy", limits)


def test_over_its_tokens_a_tenant_gets_openais_429_and_others_go_on(server: LiveServer) -> None:
    limit(server, tokens_per_minute=120)
    with server.client("busy") as busy, server.client("other") as other:
        replies = [busy.post("/v1/completions", json=TEXT) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert [r.headers["x-ratelimit-remaining-tokens"] for r in replies] == ["70", "20", "20"]
        refused = replies[-1]
        assert refused.headers["x-ratelimit-limit-tokens"] == "120"
        assert refused.headers["x-ratelimit-reset-tokens"].endswith("s")
        assert "x-ratelimit-limit-requests" not in refused.headers
        assert 0 < int(refused.headers["retry-after-ms"]) <= WINDOW_S * 1000
        assert 1 <= int(refused.headers["retry-after"]) <= WINDOW_S
        assert refused.elapsed.total_seconds() >= 0.05, "a client that does not wait is not slowed"
        error = refused.json()["error"]
        assert (error["type"], error["code"], error["param"]) == (
            "tokens",
            "rate_limit_exceeded",
            None,
        )
        assert "Limit 120, Used 100, Requested 50" in error["message"]
        num_seen = len(server.engine.seen)
        assert busy.post("/v1/completions", json=TEXT).status_code == 429
        assert len(server.engine.seen) == num_seen, "a refused request reached the engine"
        for _ in range(10):
            reply = other.post("/v1/completions", json=TEXT)
            assert reply.status_code == 200
            assert "x-ratelimit-limit-tokens" not in reply.headers


def test_the_official_client_backs_off_and_succeeds(server: LiveServer) -> None:
    limit(server, tokens_per_minute=60)
    statuses: list[int] = []

    def note(reply: httpx.Response) -> None:
        statuses.append(reply.status_code)

    http = httpx.Client(event_hooks={"response": [note]}, verify=False)
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=server.keys["busy"], http_client=http
    ) as client:
        for _ in range(2):
            assert client.completions.create(**TEXT).usage.total_tokens == 50
    assert statuses == [200, 429, 200]


def test_a_tenant_that_is_refused_all_the_time_takes_nothing_from_another(tmp_path: Path) -> None:
    """How long the other's answers take meanwhile is measured by benchmarks/quotas.py."""
    engine = ScriptedEngine(step_s=0.004)
    with live_server(
        tmp_path, engine=engine, tenants=("busy", "other"), window_s=WINDOW_S
    ) as server:
        limit(server, tokens_per_minute=50)
        over = threading.Event()
        refused: list[int] = []

        def hammer() -> None:
            with server.client("busy") as busy:
                while not over.wait(0.01):
                    refused.append(busy.post("/v1/completions", json=TEXT).status_code)

        thread = threading.Thread(target=hammer)
        with server.client("other") as other:
            thread.start()
            try:
                assert eventually(lambda: 429 in refused)
                num_before = refused.count(429)
                for _ in range(12):
                    reply = other.post("/v1/completions", json=TEXT)
                    assert reply.status_code == 200
                    assert reply.json()["usage"]["completion_tokens"] == 40
                num_refused = refused.count(429) - num_before
            finally:
                over.set()
                thread.join()
        assert num_refused > 24
        assert refused.count(200) <= 1 + 30, "refusals are not counted as use, answers are"


def test_what_was_reserved_and_not_used_is_given_back(server: LiveServer) -> None:
    limit(server, tokens_per_minute=700)
    with server.client("busy") as busy:
        for _ in range(4):  # reserve 10 + 300 each, and use 93: the text ends by itself
            reply = busy.post("/v1/completions", json={**TEXT, "max_tokens": 300})
            assert reply.status_code == 200, reply.text
        used = reply.json()["usage"]["total_tokens"]
        left = busy.get("/v1/models").headers["x-ratelimit-remaining-tokens"]
        assert int(left) == 700 - 4 * used


def test_a_stream_has_the_headers_and_what_its_client_left_unread_is_given_back(
    server: LiveServer,
) -> None:
    limit(server, tokens_per_minute=700)
    server.engine.held.set()
    with server.client("busy") as busy:
        body = {**TEXT, "max_tokens": 300, "stream": True}
        with busy.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.headers["x-ratelimit-remaining-tokens"] == str(700 - 310)
        # The client has hung up before there was a token: nothing was used, nothing is counted.
        assert eventually(
            lambda: busy.get("/v1/models").headers["x-ratelimit-remaining-tokens"] == "700"
        )
    server.tenancy.try_flush()
    assert [*server.tenancy.report.pages()] == []


def test_what_is_too_large_for_a_minute_never_gets_through(server: LiveServer) -> None:
    limit(server, tokens_per_minute=45)
    with server.client("busy") as busy:
        reply = busy.post("/v1/completions", json=TEXT)
        assert reply.status_code == 429
        assert reply.headers["x-should-retry"] == "false"
        assert "retry-after" not in reply.headers
        assert "Request too large" in reply.json()["error"]["message"]
        # A chat that leaves its length open takes what the minute allows.
        chat = {"model": BASE_NAME, "messages": [{"role": "user", "content": "x"}]}
        usage = busy.post("/v1/chat/completions", json=chat).json()["usage"]
        assert usage["total_tokens"] == 45


def test_requests_per_minute_count_every_request_with_the_key(server: LiveServer) -> None:
    limit(server, requests_per_minute=3)
    with server.client("busy") as busy:
        replies = [busy.get("/v1/models") for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        assert [r.headers["x-ratelimit-remaining-requests"] for r in replies] == list("2100")
        assert replies[-1].json()["error"]["type"] == "requests"
        assert eventually(lambda: busy.get("/v1/models").status_code == 200, WINDOW_S + 1)


def test_requests_at_the_same_time(server: LiveServer) -> None:
    limit(server, max_concurrent=1)
    server.engine.held.set()
    with server.client("busy") as busy, server.client("busy") as again:
        statuses: list[int] = []
        first = threading.Thread(
            target=lambda: statuses.append(busy.post("/v1/completions", json=TEXT).status_code)
        )
        first.start()
        assert eventually(lambda: server.engine.num_running == 1)
        refused = again.post("/v1/completions", json=TEXT)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert again.get("/v1/models").status_code == 200
        server.engine.held.clear()
        first.join()
        assert statuses == [200]
        assert again.post("/v1/completions", json=TEXT).status_code == 200


def upload(client: httpx.Client, name: str, files: dict[str, bytes]) -> httpx.Response:
    return client.put(
        f"/v1/adapters/{name}", files={key: (key, data) for key, data in files.items()}
    )


def test_quotas_of_the_store(server: LiveServer) -> None:
    adapter = random_adapter(server.base, seed=1)
    files = {CONFIG_FILE: adapter.config_bytes, WEIGHTS_FILE: adapter.weights_bytes}
    num_bytes = sum(map(len, files.values()))
    rank = 2
    with server.client("busy") as busy, server.client("other") as other:
        limit(server, max_adapters=1)
        first = upload(busy, "one", files)
        assert first.status_code == 201, first.text
        rank = max(first.json()["ranks"])
        refused = upload(busy, "two", files)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "quota_exceeded"
        assert upload(busy, "one", files).status_code == 201  # no further name
        server.tenancy.quotas.set("busy", {"max_adapters": None, "max_bytes": 2 * num_bytes - 1})
        refused = upload(busy, "two", files)
        assert refused.status_code == 403
        assert f"have {num_bytes}" in refused.json()["error"]["message"]
        server.tenancy.quotas.set("busy", {"max_bytes": None, "max_rank": rank - 1})
        assert "rank" in upload(busy, "two", files).json()["error"]["message"]
        assert [one["id"] for one in busy.get("/v1/adapters").json()["data"]] == ["one"]
        assert upload(other, "two", files).status_code == 201


def test_the_servers_defaults_hold_where_nothing_is_set(tmp_path: Path) -> None:
    with live_server(tmp_path, tenant_requests_per_minute=1) as server:
        server.tenancy.quotas.set("other", {"requests_per_minute": 2})
        for tenant, allowed in (("acme", 1), ("other", 2)):
            with server.client(tenant) as client:
                replies = [client.get("/v1/quota") for _ in range(allowed + 1)]
            assert [r.status_code for r in replies] == [200] * allowed + [429]
            assert replies[0].json()["effective"]["requests_per_minute"] == allowed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (7.66, "7.66s"), (60, "1m0s"), (61.5, "1m1.5s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_window_ends(server: LiveServer) -> None:
    limit(server, tokens_per_minute=50)
    with server.client("busy") as busy:
        assert busy.post("/v1/completions", json=TEXT).status_code == 200
        wait_s = int(busy.post("/v1/completions", json=TEXT).headers["retry-after-ms"]) / 1000
        time.sleep(wait_s)
        assert busy.post("/v1/completions", json=TEXT).status_code == 200
