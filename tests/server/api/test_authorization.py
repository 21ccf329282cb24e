"""Every route with every kind of caller."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from motet.database import database_file

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.live_server import ADMIN_KEY, BASE_NAME, LiveServer, live_server
from tests.support.tenants import opened_tenants

CALLERS = ("nobody", "stranger", "other", "admin", "owner")

TENANTS = ("owner", "other", "third")


@dataclass(frozen=True)
class Call:
    """One request, and the status it gets from each of CALLERS."""

    method: str
    path: str
    statuses: tuple[int, int, int, int, int]
    parts: dict[str, Any] = field(default_factory=dict)


PRIVATE = (401, 401, 404, 401, 200)  # what the owner has, the other has not
OPEN = (200,) * 5
TENANT = (401, 401, 200, 401, 200)  # everyone has this for themselves
ADMIN = (401, 401, 403, 200, 403)

FORM = {CONFIG_FILE: (CONFIG_FILE, b"{}"), WEIGHTS_FILE: (WEIGHTS_FILE, b"")}
CALLS = [
    Call("GET", "/health", OPEN),
    Call("GET", "/ready", OPEN),
    Call("GET", "/metrics", OPEN),  # from loopback; from elsewhere see below
    Call("GET", "/openapi.json", OPEN),
    Call("GET", "/v1/models", TENANT),
    Call("GET", "/v1/models/{model:path}", PRIVATE),
    Call(
        "POST",
        "/v1/completions",
        PRIVATE,
        {"json": {"model": "mine", "prompt": "x", "max_tokens": 1}},
    ),
    Call(
        "POST",
        "/v1/chat/completions",
        PRIVATE,
        {"json": {"model": "mine", "messages": [{"role": "user", "content": "x"}], "n": 1}},
    ),
    Call("GET", "/v1/adapters", TENANT),
    Call("GET", "/v1/adapters/{name}", PRIVATE),
    # Refused for its contents, once the caller is known: nobody's adapter is replaced here.
    Call("PUT", "/v1/adapters/{name}", (401, 401, 422, 401, 422), {"files": FORM}),
    Call("PUT", "/v1/adapters/{name}/files/{filename}", (401, 401, 201, 401, 201)),
    Call("DELETE", "/v1/adapters/{name}/files", (401, 401, 404, 401, 200)),
    Call("POST", "/v1/adapters/{name}/commit", (401, 401, 404, 401, 422)),
    Call("DELETE", "/v1/adapters/{name}", PRIVATE),
    Call("POST", "/admin/tenants", (401, 401, 403, 201, 403), {"json": {"name": "fresh"}}),
    Call("GET", "/admin/tenants", ADMIN),
    Call("POST", "/admin/tenants/{name}/rotate", ADMIN),
    Call("POST", "/admin/tenants/{name}/keys", (401, 401, 403, 201, 403)),
    Call("DELETE", "/admin/tenants/{name}/keys/{key_id}", ADMIN),
    Call("DELETE", "/admin/tenants/{name}", ADMIN),
]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("used"), tenants=TENANTS) as server:
        yield server


@pytest.fixture
def fresh(used: LiveServer) -> LiveServer:
    """The server as if nobody had done anything yet."""
    for name in TENANTS:
        used.keys[name] = used.tenants.rotate(name)
        for adapter in used.store.list(name):
            used.store.delete(name, adapter.name)
    random_adapter(used.base).put(used.store, "owner", "mine")
    return used


def caller(server: LiveServer, who: str) -> httpx.Client:
    if who in ("owner", "other"):
        return server.client(who)
    return server.client(key={"nobody": None, "stranger": "motet_x", "admin": ADMIN_KEY}[who])


def path_of(server: LiveServer, call: Call) -> str:
    if call.path.startswith("/admin"):
        (key_id,) = server.tenants.get("third").key_ids
        return call.path.format(name="third", key_id=key_id)
    path = call.path.replace("{model:path}", "mine")
    return path.format(name="mine", filename=CONFIG_FILE)


def prepare(server: LiveServer, call: Call) -> None:
    """What the owner's call needs to find, and nothing besides."""
    for tenant in ("owner", "other"):
        with server.client(tenant) as client:
            client.delete("/v1/adapters/mine/files")
    if call.path.endswith(("/commit", "/files")):
        with server.client("owner") as client:
            client.put(f"/v1/adapters/mine/files/{CONFIG_FILE}", content=b"{}")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_who_may_do_what(fresh: LiveServer, call: Call) -> None:
    digest = fresh.store.get("owner", "mine").digest
    path = path_of(fresh, call)
    prepare(fresh, call)
    for who, status in zip(CALLERS, call.statuses, strict=True):
        with caller(fresh, who) as client:
            reply = client.request(call.method, path, **call.parts)
        assert reply.status_code == status, f"{who}: {reply.text}"
        if status == 401:
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["type"] == "authentication_error"
        if who != "owner" and status not in (200, 201):
            assert fresh.store.get("owner", "mine").digest == digest
            assert digest not in reply.text


def test_no_route_is_missing_from_the_matrix(fresh: LiveServer) -> None:
    found = {
        (method, context.path)
        for context in iter_route_contexts(fresh.app.routes)
        for method in context.methods or ()
        if method != "HEAD"
    }
    assert found == {(call.method, call.path) for call in CALLS}


@pytest.mark.parametrize(
    ("method", "path", "parts"),
    [
        ("GET", "/v1/models/{}", {}),
        ("GET", "/v1/adapters/{}", {}),
        ("DELETE", "/v1/adapters/{}", {}),
        ("POST", "/v1/completions", {"json": {"model": "{}", "prompt": "x"}}),
        ("POST", "/v1/completions", {"json": {"model": "{}", "prompt": "x", "stream": True}}),
        ("POST", "/v1/adapters/{}/commit", {}),
        ("DELETE", "/v1/adapters/{}/files", {}),
    ],
)
def test_anothers_adapter_is_as_absent_as_a_missing_one(
    fresh: LiveServer, method: str, path: str, parts: dict[str, Any]
) -> None:
    replies = []
    for name in ("mine", "none"):  # of the same length, so that nothing else can differ
        sent = {key: {**value, "model": name} for key, value in parts.items()}
        with fresh.client("other") as client:
            replies.append(client.request(method, path.format(name), **sent))
    foreign, missing = replies
    assert foreign.status_code == missing.status_code == 404
    assert foreign.content.replace(b"mine", b"none") == missing.content
    volatile = {"date", "x-request-id"}
    assert [item for item in foreign.headers.items() if item[0] not in volatile] == [
        item for item in missing.headers.items() if item[0] not in volatile
    ]
    assert fresh.store.get("owner", "mine")


def test_two_tenants_may_use_one_name(fresh: LiveServer) -> None:
    random_adapter(fresh.base, seed=8).put(fresh.store, "other", "mine")
    digests = []
    for tenant in ("owner", "other"):
        with fresh.client(tenant) as client:
            digests.append(client.get("/v1/adapters/mine").json()["digest"])
            body = {"model": "mine", "prompt": "x", "max_tokens": 1}
            reply = client.post("/v1/completions", json=body)
            assert reply.headers["x-adapter-digest"] == digests[-1]
    assert digests[0] != digests[1]


def test_revocation_counts_at_once_for_this_and_other_processes(fresh: LiveServer) -> None:
    with fresh.client("owner") as client:
        assert client.get("/v1/models").status_code == 200
        with opened_tenants(database_file(fresh.settings.data_dir)) as beside:
            beside.revoke("owner")
            assert client.get("/v1/models").status_code == 401
            key = beside.rotate("owner")
    with fresh.client(key=key) as client:
        assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Basic abc", "Basic {key}", "{key}", "bearer  {key}", "Bearer {key}x"]
)
def test_only_a_bearer_key_counts(fresh: LiveServer, header: str) -> None:
    headers = {"authorization": header.format(key=fresh.keys["owner"])}
    with httpx.Client(base_url=fresh.url, headers=headers) as client:
        status = client.get("/v1/models").status_code
    assert status == (200 if header.startswith("bearer") else 401)


def test_admin_makes_a_tenant_whose_key_works(fresh: LiveServer) -> None:
    with fresh.client(key=ADMIN_KEY) as admin:
        made = admin.post("/admin/tenants", json={"name": "made"}).json()
        with fresh.client(key=made["key"]) as client:
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [BASE_NAME]
        listed = admin.get("/admin/tenants").json()["data"]
        assert made["key"] not in str(listed)
        again = admin.post("/admin/tenants", json={"name": "made"})
        assert again.status_code == 409
        assert again.headers["x-should-retry"] == "false"
        assert admin.post("/admin/tenants", json={"name": "No"}).status_code == 400
        assert admin.post("/admin/tenants", json={"nom": "x"}).status_code == 400
        assert admin.delete("/admin/tenants/nobody").status_code == 404
        assert admin.delete("/admin/tenants/made/keys/0123").status_code == 404
        rotated = admin.post("/admin/tenants/made/rotate").json()
        with fresh.client(key=made["key"]) as client:
            assert client.get("/v1/models").status_code == 401
        assert admin.delete("/admin/tenants/made").json()["revoked"] is True
        with fresh.client(key=rotated["key"]) as client:
            assert client.get("/v1/models").status_code == 401


def test_the_stored_admin_key_works_too(tmp_path: Path) -> None:
    with live_server(tmp_path, admin_key=None) as server:
        with server.client(key=ADMIN_KEY) as client:
            reply = client.get("/admin/tenants")
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "admin_key_not_set"
        with server.client(key=server.tenants.new_admin_key()) as client:
            assert client.get("/admin/tenants").status_code == 200
