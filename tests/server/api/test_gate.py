"""Callers that a loopback test cannot be: from afar, through proxies, by other names."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from motet.api.auth import Gate
from motet.errors import Forbidden, MotetError, Unauthorized
from motet.settings import Settings
from motet.tenancy.tenancy import Tenancy
from motet.tenancy.tenants import DEFAULT_TENANT
from starlette.requests import Request

from tests.support.live_server import ADMIN_KEY, BASE_NAME, live_server
from tests.support.tenants import opened_tenancy


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    with opened_tenancy(tmp_path / "motet.sqlite3") as opened:
        yield opened


def request(peer: str | None = "127.0.0.1", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    client = None if peer is None else (peer, 5)
    return Request({"type": "http", "method": "GET", "headers": raw, "client": client})


def gate(tenancy: Tenancy, host: str = "127.0.0.1") -> Gate:
    return Gate(Settings(host=host, admin_key=ADMIN_KEY), tenancy)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]"]
)
def test_without_tenants_loopback_names_are_served(tenancy: Tenancy, host: str) -> None:
    assert gate(tenancy).tenant(request(host=host)) == DEFAULT_TENANT


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]", "10.0.0.1"]
)
def test_without_tenants_a_rebound_name_is_refused(tenancy: Tenancy, host: str) -> None:
    with pytest.raises(Forbidden, match="loopback name"):
        gate(tenancy).tenant(request(host=host))


def test_without_tenants_a_server_for_the_world_serves_nobody(tenancy: Tenancy) -> None:
    with pytest.raises(Unauthorized):
        gate(tenancy, "0.0.0.0").tenant(request(host="127.0.0.1"))


def test_with_tenants_names_do_not_matter_and_keys_do(tenancy: Tenancy) -> None:
    _, key = tenancy.tenants.create("acme")
    asked = request(host="evil.example", authorization=f"Bearer {key}")
    assert gate(tenancy, "0.0.0.0").tenant(asked) == "acme"
    with pytest.raises(Unauthorized):
        gate(tenancy).tenant(request(host="127.0.0.1"))


def test_the_first_tenants_key_is_its_own_from_the_first_request(
    tenancy: Tenancy, tmp_path: Path
) -> None:
    """Also in the moment before the server has heard of the tenant: it is not the default one."""
    with opened_tenancy(tmp_path / "motet.sqlite3") as beside:
        key = beside.tenants.create("acme")[1]
    asked = request(host="127.0.0.1", authorization=f"Bearer {key}")
    assert gate(tenancy).tenant(asked) == "acme"


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.1.2.3", {"host": "127.0.0.1"}),
        (None, {"host": "127.0.0.1"}),
        ("127.0.0.1", {"host": "evil.example"}),
        ("127.0.0.1", {"host": "127.0.0.1", "x_forwarded_for": "127.0.0.1"}),
        ("127.0.0.1", {"host": "127.0.0.1", "forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"host": "127.0.0.1", "via": "1.1 proxy"}),
    ],
)
def test_metrics_from_afar_need_the_admin_key(
    tenancy: Tenancy, peer: str | None, headers: dict[str, str]
) -> None:
    _, key = tenancy.tenants.create("acme")
    for extra in ({}, {"authorization": f"Bearer {key}"}, {"authorization": "Bearer no"}):
        with pytest.raises(MotetError):
            gate(tenancy).require_operator(request(peer, **headers, **extra))
    gate(tenancy).require_operator(request(peer, **headers, authorization=f"Bearer {ADMIN_KEY}"))


def test_metrics_from_here_need_no_key(tenancy: Tenancy) -> None:
    gate(tenancy).require_operator(request(host="127.0.0.1:8000"))
    gate(tenancy).require_operator(request("::1", host="[::1]:8000"))


def test_a_server_without_tenants_works_and_then_takes_keys_only(tmp_path: Path) -> None:
    with live_server(tmp_path, tenants=()) as server:
        body = {"model": BASE_NAME, "prompt": "x", "max_tokens": 1}
        with server.client() as client, server.client(key="sk-any") as with_some_key:
            assert client.post("/v1/completions", json=body).status_code == 200
            assert with_some_key.get("/v1/models").status_code == 200
            assert server.engine.seen[0].tenant == DEFAULT_TENANT
            rebound = client.get("/v1/models", headers={"host": "evil.example"})
            assert rebound.status_code == 403
            assert rebound.json()["error"]["code"] == "foreign_host"
            _, key = server.tenants.create("acme")
            assert client.get("/v1/models").status_code == 401
            assert with_some_key.get("/v1/models").status_code == 401
        with server.client(key=key) as client:
            assert client.get("/v1/models").status_code == 200
