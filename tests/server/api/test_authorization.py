"""Every route of the server with every kind of caller, from what the router says there is.

A route that is not in ROUTES fails `test_every_route_is_classified`, and so does one that is there
and gone: whoever adds one says here who may use it.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from motet.database import database_file

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.live_server import ADMIN_KEY, BASE_NAME, LiveServer, eventually, live_server
from tests.support.tenants import opened_tenancy

TENANTS = ("owner", "other", "third")
CALLERS = ("nobody", "stranger", "expired", "suspended", "other", "wrong scope", "owner", "admin")

# Who gets in: everybody; each key of a tenant; a tenant's key with one scope; the admin key.
OPEN, ANY = "open", "any"
INFER, UPLOAD, OWN_ADMIN = "infer", "upload", "admin"
OPERATOR = "operator"
SCOPES = {INFER, UPLOAD, OWN_ADMIN}


@dataclass(frozen=True)
class Route:
    """Who may use a route; the request that shows it, and the statuses it gets.

    private: it is about the owner's adapter, which `other` does not have. done: the owner's (or
    the operator's) status, once let in.
    """

    opens: str
    private: bool = False
    done: int = 200
    path: str | None = None
    parts: dict[str, Any] = field(default_factory=dict)


FORM = {CONFIG_FILE: (CONFIG_FILE, b"{}"), WEIGHTS_FILE: (WEIGHTS_FILE, b"")}
TEXT = {"model": "mine", "prompt": "x", "max_tokens": 1}
CHAT = {"model": "mine", "messages": [{"role": "user", "content": "x"}], "n": 1}
TENANT = "/admin/tenants/{name}"
KEY = f"{TENANT}/keys"
FILES = "/v1/adapters/{name}/files"
IMPORTS = "file:///srv/nowhere"
WEIGHTS = f"{FILES}/{WEIGHTS_FILE}"
SHA256 = hashlib.sha256(random_adapter(RandomBase.llama()).weights_bytes).digest()
# The file that the owner's adapter was made of.
STORED = {"headers": {"repr-digest": f"sha-256=:{base64.b64encode(SHA256).decode()}:"}}

ROUTES = {
    ("GET", "/health"): Route(OPEN),
    ("GET", "/ready"): Route(OPEN),
    ("GET", "/metrics"): Route(OPEN),  # from loopback; from elsewhere see test_gate
    ("GET", "/openapi.json"): Route(OPEN),
    ("HEAD", "/openapi.json"): Route(OPEN),
    ("GET", "/v1/models"): Route(ANY),
    ("GET", "/v1/models/{model:path}"): Route(ANY, private=True, path="/v1/models/mine"),
    ("POST", "/v1/completions"): Route(INFER, private=True, parts={"json": TEXT}),
    ("POST", "/v1/chat/completions"): Route(INFER, private=True, parts={"json": CHAT}),
    ("GET", "/v1/adapters"): Route(ANY),
    ("GET", "/v1/adapters/{name}"): Route(ANY, private=True),
    # Refused for its contents, once the caller is known: nobody's adapter is replaced here.
    ("PUT", "/v1/adapters/{name}"): Route(UPLOAD, done=422, parts={"files": FORM}),
    ("DELETE", "/v1/adapters/{name}"): Route(UPLOAD, private=True),
    ("GET", "/v1/adapters/{name}/versions"): Route(ANY, private=True),
    ("GET", "/v1/adapters/{name}/versions/{number}"): Route(ANY, private=True),
    ("DELETE", "/v1/adapters/{name}/versions/{number}"): Route(UPLOAD, private=True),
    ("POST", "/v1/adapters/{name}/rollback"): Route(
        UPLOAD, private=True, path="/v1/adapters/{name}/rollback?version=1"
    ),
    ("PUT", f"{FILES}/{{filename}}"): Route(UPLOAD, done=201),
    ("HEAD", f"{FILES}/{{filename}}"): Route(ANY, private=True, path=WEIGHTS, parts=STORED),
    ("POST", f"{FILES}/{{filename}}"): Route(
        UPLOAD, private=True, done=201, path=WEIGHTS, parts=STORED
    ),
    ("GET", FILES): Route(ANY, private=True),
    ("DELETE", FILES): Route(UPLOAD, private=True),
    ("POST", "/v1/adapters/{name}/commit"): Route(UPLOAD, private=True, done=422),
    ("GET", "/v1/keys"): Route(OWN_ADMIN),
    ("POST", "/v1/keys"): Route(OWN_ADMIN, done=201, parts={"json": {}}),
    ("POST", "/v1/keys/{key_id}/rotate"): Route(
        OWN_ADMIN, private=True, done=201, parts={"json": {}}
    ),
    ("DELETE", "/v1/keys/{key_id}"): Route(OWN_ADMIN, private=True),
    ("GET", "/v1/quota"): Route(ANY),
    ("GET", "/v1/usage"): Route(OWN_ADMIN),
    ("POST", "/admin/tenants"): Route(OPERATOR, done=201, parts={"json": {"name": "fresh"}}),
    ("GET", "/admin/tenants"): Route(OPERATOR),
    ("GET", TENANT): Route(OPERATOR),
    ("PATCH", TENANT): Route(OPERATOR, parts={"json": {"name": "third"}}),
    ("DELETE", TENANT): Route(OPERATOR, path="/admin/tenants/third?confirm=third"),
    ("POST", f"{TENANT}/suspend"): Route(OPERATOR),
    ("POST", f"{TENANT}/resume"): Route(OPERATOR),
    ("POST", f"{TENANT}/rotate"): Route(OPERATOR),
    ("GET", KEY): Route(OPERATOR),
    ("POST", KEY): Route(OPERATOR, done=201, parts={"json": {}}),
    ("POST", f"{KEY}/{{key_id}}/rotate"): Route(OPERATOR, done=201, parts={"json": {}}),
    ("DELETE", f"{KEY}/{{key_id}}"): Route(OPERATOR),
    ("GET", f"{TENANT}/quota"): Route(OPERATOR),
    ("PATCH", f"{TENANT}/quota"): Route(OPERATOR, parts={"json": {"max_rank": 8}}),
    # Refused because nothing is there, once the caller is known.
    ("POST", f"{TENANT}/adapters/{{adapter}}/import"): Route(
        OPERATOR,
        done=422,
        path="/admin/tenants/third/adapters/x/import",
        parts={"json": {"url": f"{IMPORTS}/nothing"}},
    ),
    ("GET", "/admin/usage"): Route(OPERATOR),
    ("GET", "/admin/audit"): Route(OPERATOR),
    ("GET", "/admin/metrics"): Route(OPERATOR),
}


def found_routes(server: LiveServer) -> set[tuple[str, str]]:
    return {
        (method, context.path)
        for context in iter_route_contexts(server.app.routes)
        for method in context.methods or ()
    }


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("used")
    with live_server(directory, tenants=TENANTS, import_prefixes=IMPORTS) as server:
        for name in ("owner", "other"):
            server.keys[name] = server.tenants.rotate(name, scopes=SCOPES)
        server.tenants.create("suspended")
        server.keys["suspended"] = server.tenants.rotate("suspended", scopes=SCOPES)
        server.tenants.suspend("suspended")
        server.keys["expired"] = expired_key(server)
        yield server


def expired_key(server: LiveServer) -> str:
    """One of the owner's that worked until a moment ago."""
    end = int(time.time()) + 5
    key = server.tenancy.keys.create("owner", scopes=SCOPES, expires_at=end)[1]
    assert server.tenancy.ring.authenticate(key) is not None
    assert eventually(lambda: time.time() >= end)
    return key


@pytest.fixture
def fresh(used: LiveServer) -> LiveServer:
    """The server as if nobody had done anything yet."""
    for tenant in used.tenants.list():
        if tenant.name in ("fresh", "third"):
            used.tenants.delete(tenant.name)
    used.keys["third"] = used.tenants.create("third")[1]
    for name in ("owner", "other"):
        for adapter in used.store.list(name):
            used.store.delete(name, adapter.name)
    random_adapter(used.base).put(used.store, "owner", "mine")
    return used


def caller(server: LiveServer, who: str, route: Route) -> httpx.Client:
    if who in server.keys:
        return server.client(who)
    if who == "wrong scope":
        scopes = SCOPES - {route.opens} if route.opens in SCOPES else SCOPES
        return server.client(key=server.tenancy.keys.create("owner", scopes=scopes)[1])
    keys = {"nobody": None, "stranger": "motet_" + "x" * 43, "admin": ADMIN_KEY}
    return server.client(key=keys[who])


def expected(route: Route, who: str) -> int:
    """The whole policy: who is refused how."""
    if route.opens == OPEN:
        return route.done
    if who in ("nobody", "stranger", "expired", "suspended"):
        return 401
    if route.opens == OPERATOR:
        return route.done if who == "admin" else 403
    if who == "admin":
        return 401  # the admin key is no tenant's
    if who == "wrong scope" and route.opens in SCOPES:
        return 403
    return 404 if route.private and who == "other" else route.done


def path_of(server: LiveServer, template: str, route: Route) -> str:
    (key_id,) = server.tenants.get("third").key_ids
    if template.startswith("/admin"):
        return (route.path or template).format(name="third", key_id=key_id)
    if "{key_id}" in template:
        key_id = server.tenancy.keys.create("owner")[0].id
    named = {"name": "mine", "filename": CONFIG_FILE, "number": 1, "key_id": key_id}
    return (route.path or template).format(**named)


def prepare(server: LiveServer, template: str) -> None:
    """What the owner's call needs to find, and nothing besides."""
    for tenant in ("owner", "other"):
        with server.client(tenant) as client:
            client.delete("/v1/adapters/mine/files")
    if not server.store.list("owner"):
        random_adapter(server.base).put(server.store, "owner", "mine")
    if template.endswith(("/commit", "/files")):
        with server.client("owner") as client:
            assert client.put(f"/v1/adapters/mine/files/{CONFIG_FILE}", content=b"{}").is_success


def test_every_route_is_classified(fresh: LiveServer) -> None:
    found = found_routes(fresh)
    assert found - set(ROUTES) == set(), "new routes: say in ROUTES who may use them"
    assert set(ROUTES) - found == set(), "these routes are gone"


def test_a_route_that_nobody_classified_is_noticed(fresh: LiveServer) -> None:
    fresh.app.add_api_route("/v1/forgotten", lambda: None)
    try:
        assert found_routes(fresh) - set(ROUTES) == {("GET", "/v1/forgotten")}
    finally:
        fresh.app.router.routes.pop()


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("named", ROUTES, ids=" ".join)
def test_who_may_do_what(fresh: LiveServer, named: tuple[str, str], who: str) -> None:
    method, template = named
    route = ROUTES[named]
    prepare(fresh, template)
    digest = fresh.store.get("owner", "mine").digest
    path = path_of(fresh, template, route)
    with caller(fresh, who, route) as client:
        before = state(fresh)
        reply = client.request(method, path, **route.parts)
    assert reply.status_code == expected(route, who), reply.text
    if reply.status_code == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
    if reply.status_code == 401 and method != "HEAD":
        assert reply.json()["error"]["type"] == "authentication_error"
    if reply.status_code in (401, 403, 404):
        assert state(fresh) == before
        assert digest not in reply.text


def state(server: LiveServer) -> object:
    """Everything that a refused request must leave as it is."""
    adapters = [server.store.list(name) for name in TENANTS]
    tenants = list(server.tenants.list())
    quotas = [server.tenancy.quotas.get(tenant.id) for tenant in tenants]
    return tenants, adapters, quotas


@pytest.mark.parametrize(
    ("method", "path", "parts"),
    [
        ("GET", "/v1/models/{}", {}),
        ("GET", "/v1/adapters/{}", {}),
        ("DELETE", "/v1/adapters/{}", {}),
        ("POST", "/v1/completions", {"json": {"model": "{}", "prompt": "x"}}),
        ("POST", "/v1/completions", {"json": {"model": "{}", "prompt": "x", "stream": True}}),
        ("POST", "/v1/chat/completions", {"json": {**CHAT, "model": "{}"}}),
        ("POST", "/v1/adapters/{}/commit", {}),
        ("GET", "/v1/adapters/{}/versions", {}),
        ("GET", "/v1/adapters/{}/versions/1", {}),
        ("DELETE", "/v1/adapters/{}/versions/1", {}),
        ("POST", "/v1/adapters/{}/rollback?version=1", {}),
        ("HEAD", WEIGHTS.replace("{name}", "{}"), STORED),
        ("POST", WEIGHTS.replace("{name}", "{}"), STORED),
        ("GET", "/v1/adapters/{}/files", {}),
        ("DELETE", "/v1/adapters/{}/files", {}),
    ],
)
def test_anothers_adapter_is_as_absent_as_a_missing_one(
    fresh: LiveServer, method: str, path: str, parts: dict[str, Any]
) -> None:
    prepare(fresh, "/files")
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


AS_COMPARED = {"name": "{}", "number": 1}


def test_the_comparison_covers_every_private_route(fresh: LiveServer) -> None:
    """So that a route about an adapter cannot be forgotten above."""
    marks = test_anothers_adapter_is_as_absent_as_a_missing_one.pytestmark
    compared = {(method, path) for method, path, _ in marks[0].args[1]}
    private = {
        (method, (route.path or path).format(**AS_COMPARED).replace("mine", "{}"))
        for (method, path), route in ROUTES.items()
        if route.private and "{key_id}" not in path
    }
    assert compared == private


def test_two_tenants_may_use_one_name(fresh: LiveServer) -> None:
    random_adapter(fresh.base, seed=8).put(fresh.store, "other", "mine")
    digests = []
    for tenant in ("owner", "other"):
        with fresh.client(tenant) as client:
            digests.append(client.get("/v1/adapters/mine").json()["digest"])
            reply = client.post("/v1/completions", json=TEXT)
            assert reply.headers["x-adapter-digest"] == digests[-1]
    assert digests[0] != digests[1]


def status(server: LiveServer, key: str) -> int:
    with server.client(key=key) as client:
        return client.get("/v1/models").status_code


def test_what_another_process_changes_counts_soon(fresh: LiveServer) -> None:
    key, third = fresh.keys["third"], fresh.tenants.get("third")
    assert status(fresh, key) == 200
    with opened_tenancy(database_file(fresh.settings.data_dir)) as beside:
        changes: tuple[tuple[Callable[[], object], int], ...] = (
            (lambda: beside.tenants.suspend("third"), 401),
            (lambda: beside.tenants.resume("third"), 200),
            (
                lambda: beside.keys.revoke(
                    fresh.tenants.get("third").id, fresh.tenants.get("third").key_ids[0]
                ),
                401,
            ),
        )
        for change, wanted in changes:
            change()
            assert eventually(lambda wanted=wanted: status(fresh, key) == wanted)
        fresh_key = beside.keys.create(third.id)[1]
    assert eventually(lambda: status(fresh, fresh_key) == 200)


def test_this_process_own_changes_count_at_once(fresh: LiveServer) -> None:
    key = fresh.keys["third"]
    fresh.tenants.suspend("third")
    assert status(fresh, key) == 401
    fresh.tenants.resume("third")
    assert status(fresh, key) == 200
    fresh.tenants.rotate("third")
    assert status(fresh, key) == 401


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Basic abc", "Basic {key}", "{key}", "bearer  {key}", "Bearer {key}x"]
)
def test_only_a_bearer_key_counts(fresh: LiveServer, header: str) -> None:
    headers = {"authorization": header.format(key=fresh.keys["owner"])}
    with httpx.Client(base_url=fresh.url, headers=headers) as client:
        status = client.get("/v1/models").status_code
    assert status == (200 if header.startswith("bearer") else 401)


def test_the_stored_admin_key_works_too(tmp_path: Path) -> None:
    with live_server(tmp_path, admin_key=None) as server:
        with server.client(key=ADMIN_KEY) as client:
            reply = client.get("/admin/tenants")
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "admin_key_not_set"
        with server.client(key=server.tenancy.keys.new_admin_key()) as client:
            assert client.get("/admin/tenants").status_code == 200


def test_the_base_is_everyones(fresh: LiveServer) -> None:
    with fresh.client("other") as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [BASE_NAME]
