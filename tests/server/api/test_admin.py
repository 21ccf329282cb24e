"""/admin and what a tenant may see and change of itself."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.live_server import ADMIN_KEY, BASE_NAME, LiveServer, eventually, live_server

TEXT = {"model": BASE_NAME, "prompt": "x" * 10, "max_tokens": 5}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path) as running:
        random_adapter(running.base).put(running.store, "acme", "sql")
        yield running


@pytest.fixture
def admin(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client(key=ADMIN_KEY) as client:
        yield client


def status(server: LiveServer, key: str) -> int:
    with server.client(key=key) as client:
        return client.get("/v1/models").status_code


def test_a_tenant_from_its_making_to_its_end(server: LiveServer, admin: httpx.Client) -> None:
    reply = admin.post("/admin/tenants", json={"name": "made", "scopes": ["infer", "upload"]})
    assert reply.status_code == 201
    made = reply.json()
    assert made["state"] == "active"
    assert status(server, made["key"]) == 200
    assert made["key"] not in admin.get("/admin/tenants").text
    assert admin.patch("/admin/tenants/made", json={"name": "named"}).json()["id"] == made["id"]
    assert admin.get("/admin/tenants/made").status_code == 404
    assert admin.post("/admin/tenants/named/suspend").json()["state"] == "suspended"
    assert status(server, made["key"]) == 401
    assert admin.post("/admin/tenants/named/resume").json()["state"] == "active"
    assert status(server, made["key"]) == 200
    assert admin.delete("/admin/tenants/named").json()["error"]["code"] == "not_confirmed"
    gone = admin.delete("/admin/tenants/named", params={"confirm": "named"})
    assert gone.json()["deleted"] is True
    assert status(server, made["key"]) == 401


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "acme"}, 409, "tenant_exists"),
        ({"name": "No"}, 400, "invalid_name"),
        ({"name": "x", "nom": "x"}, 400, "unknown_parameter"),
        ({"name": "x", "scopes": ["root"]}, 400, "unknown_scope"),
    ],
)
def test_what_cannot_be_made(
    admin: httpx.Client, body: dict[str, object], status: int, code: str
) -> None:
    reply = admin.post("/admin/tenants", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    if status == 409:
        assert reply.headers["x-should-retry"] == "false"


def test_deletion_takes_the_adapters_along(server: LiveServer, admin: httpx.Client) -> None:
    digest = server.store.get("acme", "sql").digest
    sources = server.settings.data_dir / "adapters" / "sources"
    assert (sources / digest).exists()
    random_adapter(server.base, seed=3).put(server.store, "other", "kept")
    assert admin.delete("/admin/tenants/acme?confirm=acme").is_success
    assert server.store.list("acme") == []
    assert eventually(lambda: not (sources / digest).exists())
    with server.client("other") as other:
        assert other.get("/v1/adapters/kept").status_code == 200
    # Whoever gets the name next does not get what was stored under it.
    key = admin.post("/admin/tenants", json={"name": "acme"}).json()["key"]
    with server.client(key=key) as fresh:
        assert fresh.get("/v1/adapters").json()["data"] == []


def test_a_renamed_tenant_keeps_its_adapters(server: LiveServer, admin: httpx.Client) -> None:
    admin.patch("/admin/tenants/acme", json={"name": "emca"})
    with server.client("acme") as client:
        assert client.post("/v1/completions", json={**TEXT, "model": "sql"}).is_success
        assert client.get("/v1/models/sql").json()["owned_by"] == "emca"


def test_keys_made_by_the_operator(server: LiveServer, admin: httpx.Client) -> None:
    made = admin.post("/admin/tenants/acme/keys", json={"scopes": ["upload"], "label": "ci"}).json()
    with server.client(key=made["key"]) as client:
        assert client.get("/v1/adapters").status_code == 200
        refused = client.post("/v1/completions", json=TEXT)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "missing_scope"
    listed = admin.get("/admin/tenants/acme/keys").json()["data"]
    assert [key["label"] for key in listed if key["id"] == made["id"]] == ["ci"]
    assert made["key"] not in str(listed)
    path = f"/admin/tenants/acme/keys/{made['id']}"
    rotated = admin.post(f"{path}/rotate", json={"grace_s": 60}).json()
    assert rotated["scopes"] == ["upload"]
    assert status(server, made["key"]) == status(server, rotated["key"]) == 200
    assert admin.delete(path).json()["revoked"] is True
    assert status(server, made["key"]) == 401
    assert admin.delete(path).status_code == 404
    assert admin.delete("/admin/tenants/acme/keys/0123").status_code == 404


def test_a_tenant_makes_keys_for_itself_alone(server: LiveServer) -> None:
    mine, key = server.tenancy.keys.create("acme", scopes=["admin"])
    others = server.tenancy.keys.list("other")[0].id
    with server.client(key=key) as client:
        made = client.post("/v1/keys", json={"scopes": ["infer"], "label": "app"}).json()
        with server.client(key=made["key"]) as app:
            assert app.post("/v1/completions", json=TEXT).status_code == 200
            assert app.get("/v1/keys").status_code == 403
        assert others not in client.get("/v1/keys").text
        for reply in (
            client.delete(f"/v1/keys/{others}"),
            client.post(f"/v1/keys/{others}/rotate", json={}),
        ):
            assert reply.status_code == 404
            missing = client.delete("/v1/keys/000000000000")
            assert reply.content == missing.content
        assert client.delete(f"/v1/keys/{made['id']}").is_success
        assert client.get("/admin/tenants").status_code == 403
    actors = {change.actor for change in server.tenancy.audit.read(tenant="acme")}
    assert f"key:{mine.id}" in actors


def test_usage_is_what_was_used(server: LiveServer, admin: httpx.Client) -> None:
    files = random_adapter(server.base, seed=5)
    parts = {CONFIG_FILE: files.config_bytes, WEIGHTS_FILE: files.weights_bytes}
    with server.client("acme") as client, server.client("other") as other:
        form = {name: (name, data) for name, data in parts.items()}
        assert client.put("/v1/adapters/mine", files=form).status_code == 201
        body = {**TEXT, "model": "sql", "n": 2, "prompt": ["x" * 10, "y" * 20]}
        told = client.post("/v1/completions", json=body).json()["usage"]
        client.post("/v1/completions", json={**body, "stream": True})
        client.post("/v1/completions", json={**body, "temperature": 9})  # refused: costs nothing
        other.post("/v1/completions", json=TEXT)
    rows = admin.get("/admin/usage").json()["data"]
    used = {(row["tenant"], row["adapter"]): row for row in rows}
    assert set(used) == {("acme", "sql"), ("acme", "mine"), ("other", "")}
    sql = used["acme", "sql"]
    assert sql["requests"] == 2
    assert sql["prompt_tokens"] == 2 * told["prompt_tokens"] == 60
    assert sql["completion_tokens"] == 2 * told["completion_tokens"] == 40
    assert used["acme", "mine"]["uploaded_bytes"] == sum(map(len, parts.values()))
    assert used["other", ""]["completion_tokens"] == 5
    text = admin.get("/admin/usage", params={"format": "csv", "tenant": "acme"})
    assert text.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(text.text)))
    assert {line["adapter"] for line in lines} == {"sql", "mine"}
    assert admin.get("/admin/usage", params={"until": 0}).json()["data"] == []
    # A tenant's own, and nobody else's.
    key = server.tenancy.keys.create("other", scopes=["admin"])[1]
    with server.client(key=key) as client:
        own = client.get("/v1/usage").json()["data"]
        assert {row["tenant"] for row in own} == {"other"}
        assert "acme" not in client.get("/v1/usage", params={"format": "csv"}).text


def test_the_audit_log_page_by_page(server: LiveServer, admin: httpx.Client) -> None:
    with server.client("acme") as client:
        client.delete("/v1/adapters/sql")
    newest = admin.get("/admin/audit", params={"limit": 1}).json()["data"][0]
    assert (newest["action"], newest["subject"], newest["tenant"]) == (
        "adapter.deleted",
        "sql",
        "acme",
    )
    assert newest["actor"] == f"key:{server.tenants.get('acme').key_ids[0]}"
    every = admin.get("/admin/audit", params={"after": 0, "limit": 1000}).json()["data"]
    assert [change["id"] for change in every] == sorted(change["id"] for change in every)
    rest = admin.get("/admin/audit", params={"after": every[1]["id"]}).json()["data"]
    assert rest == every[2:]
    assert not any(key in str(every) for key in server.keys.values())


def test_metrics_with_names_are_for_the_operator(server: LiveServer, admin: httpx.Client) -> None:
    with server.client("acme") as client:
        client.post("/v1/completions", json={**TEXT, "model": "sql"})
        assert "acme" not in client.get("/metrics").text
        assert client.get("/admin/metrics").status_code == 403
    samples = {
        (sample.name, sample.labels["tenant"], sample.labels["adapter"]): sample.value
        for family in text_string_to_metric_families(admin.get("/admin/metrics").text)
        for sample in family.samples
    }
    assert samples["motet_tenant_completion_tokens_total", "acme", "sql"] == 5


def test_quotas_are_set_one_by_one(server: LiveServer, admin: httpx.Client) -> None:
    path = "/admin/tenants/acme/quota"
    admin.patch(path, json={"max_adapters": 3, "tokens_per_minute": 100})
    own = admin.patch(path, json={"tokens_per_minute": None}).json()["own"]
    assert (own["max_adapters"], own["tokens_per_minute"]) == (3, None)
    for wrong in ({"max_adapters": -1}, {"tokens_per_minute": 0}, {"max_adapter": 1}):
        assert admin.patch(path, json=wrong).status_code == 400
    assert admin.get(path).json()["own"] == own
    with server.client("acme") as client:
        shown = client.get("/v1/quota").json()
    assert shown["own"] == own
    assert shown["effective"]["max_rank"] == server.settings.max_adapter_rank


def test_no_reply_to_a_tenant_holds_a_path_or_another_name(server: LiveServer) -> None:
    """Over every refusal that is easy to provoke."""
    server.tenancy.quotas.set("acme", {"max_adapters": 1, "requests_per_minute": 30})
    with server.client("acme") as client:
        replies = [
            client.post("/v1/completions", json={**TEXT, "model": "kept"}),
            client.post("/v1/completions", json={**TEXT, "max_tokens": 10**6}),
            client.put("/v1/adapters/x", files={CONFIG_FILE: (CONFIG_FILE, b"{}")}),
            client.get("/v1/adapters/none"),
            client.get("/admin/tenants/other"),
            client.get("/nowhere"),
            *[client.get("/v1/models") for _ in range(30)],
        ]
    assert replies[-1].status_code == 429
    for reply in replies:
        text = reply.text + str(reply.headers)
        assert "other" not in text
        assert str(server.settings.data_dir) not in text
        assert "127.0.0.1" not in text
