"""With a port of the operator's own, its routes are there alone and nobody else's are."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from motet.api.server import bind
from motet.errors import InvalidSetting
from motet.settings import Settings

from tests.server.api.test_authorization import ROUTES
from tests.support.live_server import ADMIN_KEY, LiveServer, live_server

EVERYWHERE = {"/health", "/ready"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("doors"), admin_port=free_port()) as running:
        yield running


def at(server: LiveServer, *, operators: bool) -> httpx.Client:
    """At that door, with the key that opens everything there."""
    port = server.settings.admin_port if operators else server.address[1]
    key = ADMIN_KEY if operators else server.keys["acme"]
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, verify=False)


def is_operators(path: str) -> bool:
    return path == "/metrics" or path.startswith("/admin/")


@pytest.mark.parametrize("operators", [False, True])
def test_every_route_is_behind_its_door_alone(server: LiveServer, operators: bool) -> None:
    with at(server, operators=operators) as client:
        unknown = client.get("/v1/nothing" if not operators else "/admin/nothing")
        assert unknown.json()["error"]["code"] == "route_not_found"
        for method, path in ROUTES:
            reply = client.request(method, path)  # the names in braces are nobody's
            is_here = path in EVERYWHERE or is_operators(path) == operators
            is_unknown = reply.status_code == 404 and (
                method == "HEAD" or reply.json()["error"]["code"] == "route_not_found"
            )
            if method != "HEAD":
                assert is_unknown != is_here, (method, path, reply.text)
            elif not is_here:
                assert is_unknown
            if is_unknown and method != "HEAD":
                assert reply.content == unknown.content


@pytest.mark.parametrize("path", ["//metrics", "/metrics/", "/Admin/tenants", "/admin%2Fmetrics"])
def test_another_spelling_opens_no_door(server: LiveServer, path: str) -> None:
    with at(server, operators=False) as client:
        assert client.get(path, headers={"Authorization": f"Bearer {ADMIN_KEY}"}).status_code == 404


def test_what_names_tenants_is_at_the_operators_port_only(server: LiveServer) -> None:
    tenant = server.tenants.get("acme").id
    with at(server, operators=False) as client:
        asked = {"model": "acme/Tiny-Base", "prompt": "x", "max_tokens": 2}
        assert client.post("/v1/completions", json=asked).status_code == 200
        assert client.get("/admin/metrics").status_code == 404
    with at(server, operators=True) as client:
        assert tenant in client.get("/admin/metrics").text
        assert client.get("/metrics").status_code == 200
        assert client.post("/v1/completions", json=asked).status_code == 404


def test_one_port_cannot_be_both(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="admin_port"):
        Settings.load({"port": 8123, "admin_port": 8123, "data_dir": tmp_path})


def test_a_taken_admin_port_is_said_and_the_other_is_let_go() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=free_port(), admin_port=taken.getsockname()[1])
        with pytest.raises(InvalidSetting, match="MOTET_ADMIN_PORT"):
            bind(settings)
    for one in bind(settings):
        one.close()
