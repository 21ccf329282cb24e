"""Versions, conditions, tags and ends of adapters over HTTP."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from motet_database.tables import audit
from sqlalchemy import select

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.live_server import LiveServer, eventually, live_server

UPLOADS = [random_adapter(RandomBase.llama(), seed=80 + seed) for seed in range(3)]
PATH = "/v1/adapters/one"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client("acme") as client:
        yield client
        client.delete(PATH)


def form(files: AdapterFiles) -> dict[str, Any]:
    return {
        CONFIG_FILE: (CONFIG_FILE, files.config_bytes),
        WEIGHTS_FILE: (WEIGHTS_FILE, files.weights_bytes),
    }


def put(client: httpx.Client, upload: int, **how: Any) -> httpx.Response:
    return client.put(PATH, files=form(UPLOADS[upload]), **how)


def served(client: httpx.Client) -> str:
    body = {"model": "one", "prompt": "x", "max_tokens": 1}
    return client.post("/v1/completions", json=body).headers["x-adapter-digest"]


def test_versions_are_published_listed_and_rolled_back(
    server: LiveServer, client: httpx.Client
) -> None:
    digests = []
    for number in (1, 2, 3):
        reply = put(client, number - 1)
        assert reply.status_code == 201
        assert reply.json()["version"] == number
        digests.append(reply.json()["digest"])
        assert reply.headers["etag"] == f'"{digests[-1]}"' == client.get(PATH).headers["etag"]
        assert served(client) == digests[-1]
    listed = client.get(f"{PATH}/versions")
    assert [one["version"] for one in listed.json()["data"]] == [3, 2, 1]
    assert [one["current"] for one in listed.json()["data"]] == [True, False, False]
    assert listed.headers["etag"] == f'"{digests[2]}"'
    back = client.post(f"{PATH}/rollback")
    assert back.status_code == 200
    assert back.json()["version"] == 2
    assert back.headers["etag"] == f'"{digests[1]}"'
    assert served(client) == digests[1]
    assert client.post(f"{PATH}/rollback", params={"version": 3}).json()["version"] == 3
    first = client.get(f"{PATH}/versions/1").json()
    assert (first["digest"], first["current"]) == (digests[0], False)
    deleted = client.delete(f"{PATH}/versions/3")
    assert deleted.json() == {
        "id": "one",
        "object": "adapter.version",
        "version": 3,
        "deleted": True,
    }
    assert served(client) == digests[1]
    for wrong in ("3", "0", "-1"):
        reply = client.get(f"{PATH}/versions/{wrong}")
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "version_not_found"
    assert client.get(f"{PATH}/versions/x").status_code == 400
    for wrong in ("0", "x", str(2**60)):
        assert client.post(f"{PATH}/rollback", params={"version": wrong}).status_code == 400
    assert client.post(f"{PATH}/rollback", params={"versoin": "1"}).status_code == 400
    assert client.post(f"{PATH}/rollback", params={"version": "9"}).status_code == 404
    # Each change is in the audit log under the key that made it.
    (key,) = server.tenants.get("acme").key_ids
    with server.store._registry._database.read() as db:
        rows = db.execute(
            select(audit.c.action, audit.c.actor).where(audit.c.subject == "one")
        ).all()
    assert {row.actor for row in rows} == {f"key:{key}"}
    assert {row.action for row in rows} == {
        "adapter.published",
        "adapter.rolled_back",
        "adapter.version_deleted",
    }


def test_conditions(client: httpx.Client) -> None:
    digest = put(client, 0).json()["digest"]
    old = {"if-match": f'"{"0" * 64}", "{digest}"'}
    assert put(client, 1, headers=old).status_code == 201
    before = client.get(f"{PATH}/versions").json()
    for reply in (
        put(client, 2, headers=old),
        put(client, 2, headers={"if-none-match": "*"}),
        put(client, 2, headers=old, params={"dry_run": "true"}),
        put(client, 2, headers={"if-match": f'W/"{before["data"][0]["digest"]}"'}),
        client.post(f"{PATH}/rollback", headers=old),
        client.delete(f"{PATH}/versions/1", headers=old),
        client.delete(PATH, headers=old),
    ):
        assert reply.status_code == 412, reply.text
        assert reply.json()["error"]["code"] in ("condition_failed", "adapter_exists")
    for odd in ("x", '"a', '"a" "b"', ",", ""):
        for header in ("if-match", "if-none-match"):
            reply = put(client, 2, headers={header: odd})
            assert reply.status_code == 400, odd
            assert reply.json()["error"]["code"] == "bad_precondition"
    assert client.get(f"{PATH}/versions").json() == before
    assert client.delete(PATH, headers={"if-match": "*"}).status_code == 200
    assert put(client, 0, headers={"if-match": "*"}).status_code == 412


def test_tags_and_an_end(client: httpx.Client) -> None:
    ends = int(time.time()) + 3600
    how = {"params": {"tag": ["b", "a"], "expires_at": str(ends)}}
    document = put(client, 0, **how).json()
    assert document["tags"] == ["a", "b"]
    assert document["expires_at"] == ends
    assert client.get(PATH).json() == document
    dry = put(client, 0, params={**how["params"], "dry_run": "true"}).json()
    assert (dry["tags"], dry["expires_at"], dry["version"]) == (["a", "b"], ends, None)
    for wrong in ({"tag": "a b"}, {"tag": [str(n) for n in range(17)]}, {"tag": ""}):
        reply = put(client, 0, params=wrong)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "invalid_tag"
    for wrong in ("0", str(int(time.time())), "-5", "tomorrow", str(2**60)):
        assert put(client, 0, params={"expires_at": wrong}).status_code == 400
    assert client.get(PATH).json() == document


def test_an_adapter_is_gone_at_its_end(client: httpx.Client) -> None:
    put(client, 0, params={"expires_at": str(int(time.time()) + 5)})
    assert client.get(PATH).status_code == 200
    assert eventually(lambda: client.get(PATH).status_code == 404)
    body = {"model": "one", "prompt": "x", "max_tokens": 1}
    assert client.post("/v1/completions", json=body).status_code == 404
    assert client.get("/v1/adapters").json()["data"] == []


def test_a_quota_counts_versions(tmp_path: Path) -> None:
    size = len(UPLOADS[0].config_bytes) + len(UPLOADS[0].weights_bytes)
    with (
        live_server(tmp_path, tenant_max_bytes=size * 2 + 10) as server,
        server.client("acme") as client,
    ):
        assert put(client, 0).status_code == 201
        assert put(client, 1).status_code == 201
        over = put(client, 2)
        assert over.json()["error"]["code"] == "quota_exceeded"
        assert client.get(PATH).json()["version"] == 2
        client.delete(f"{PATH}/versions/1")
        assert put(client, 2).status_code == 201
