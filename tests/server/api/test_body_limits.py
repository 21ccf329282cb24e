import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.adapter_files import CONFIG_FILE, random_adapter
from tests.support.live_server import BASE_NAME, LiveServer, eventually, live_server
from tests.support.raw_http import connection, head, reply

JSON = {"Content-Type": "application/json"}
LIMIT = 4096
UPLOAD_LIMIT = 200_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory: Path = tmp_path_factory.mktemp("small")
    limits = {"max_body_bytes": LIMIT, "max_upload_bytes": UPLOAD_LIMIT, "client_timeout_s": 0.5}
    with live_server(directory, **limits) as server:
        yield server


def staged(server: LiveServer) -> list[Path]:
    return list((server.settings.data_dir / "adapters" / "staging").iterdir())


def test_a_declared_length_over_the_limit_is_refused_unread(small: LiveServer) -> None:
    headers = {**JSON, "Content-Length": str(LIMIT + 1)}
    with connection(small) as connected:
        # Not one byte of the body is sent, so nothing can have been read.
        connected.sendall(head(small, "POST", "/v1/completions", headers))
        answer = reply(connected)
    assert answer.status == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert str(LIMIT) in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/admin/tenants"])
def test_a_chunked_body_is_cut_at_the_limit(small: LiveServer, path: str) -> None:
    with connection(small) as connected:
        headers = {**JSON, "Transfer-Encoding": "chunked"}
        if path.startswith("/admin"):
            headers["Authorization"] = "Bearer an-admin-key-of-the-tests"
        connected.sendall(head(small, "POST", path, headers))
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        connected.sendall(chunk * 5)
        answer = reply(connected)  # although the body has no end yet
    assert answer.status == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_body_at_the_limit_is_taken(small: LiveServer) -> None:
    body = b'{"model": "%s", "prompt": "x", "max_tokens": 1}' % BASE_NAME.encode()
    with small.client("acme") as client:
        fits = client.post("/v1/completions", content=body.ljust(LIMIT), headers=JSON)
        over = client.post("/v1/completions", content=body.ljust(LIMIT + 1), headers=JSON)
    assert (fits.status_code, over.status_code) == (200, 413)


def test_an_upload_over_the_limit_leaves_nothing(small: LiveServer) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(UPLOAD_LIMIT // 1000 + 100):
            yield b"x" * 1000

    path = "/v1/adapters/large/files/adapter_model.safetensors"
    with small.client("acme") as client:
        streamed = client.put(path, content=body())
        declared = client.put(path, content=b"x" * (UPLOAD_LIMIT + 70_000))
        # Within the layer's allowance for form boundaries, over the files' own limit.
        between = client.put(path, content=b"x" * (UPLOAD_LIMIT + 1))
    for answer, code in (
        (streamed, "body_too_large"),
        (declared, "body_too_large"),
        (between, "adapter_too_large"),
    ):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] in (code, "adapter_too_large")
    assert staged(small) == []
    assert small.store.list("acme") == []


def test_an_upload_may_be_larger_than_json_may(small: LiveServer) -> None:
    files = random_adapter(small.base)
    assert len(files.weights_bytes) > LIMIT
    parts = {
        "a": (CONFIG_FILE, files.config_bytes),
        "b": ("adapter_model.safetensors", files.weights_bytes),
    }
    with small.client("acme") as client:
        assert client.put("/v1/adapters/fits", files=parts).status_code == 201
        client.delete("/v1/adapters/fits")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/completions"), ("PUT", f"/v1/adapters/slow/files/{CONFIG_FILE}")],
)
def test_a_body_that_stops_coming_is_given_up(small: LiveServer, method: str, path: str) -> None:
    with connection(small) as connected:
        connected.sendall(head(small, method, path, {**JSON, "Content-Length": "100"}) + b"{")
        answer = reply(connected)
    assert answer.status == 408
    assert answer.json()["error"]["code"] == "body_stalled"
    if method == "PUT":  # what came may be continued, or dropped
        with small.client("acme") as client:
            assert client.delete("/v1/adapters/slow/files").status_code == 200
    assert staged(small) == []


def test_a_form_cut_off_leaves_nothing(small: LiveServer) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=abc", "Content-Length": "5000"}
    with connection(small) as connected:
        connected.sendall(head(small, "PUT", "/v1/adapters/cut", headers))
        connected.sendall(b'--abc\r\nContent-Disposition: form-data; name="x"\r\n\r\n')
        time.sleep(0.05)
    assert eventually(lambda: staged(small) == [])
    with small.client("acme") as client:
        assert client.post("/v1/adapters/cut/commit").status_code == 404


def test_headers_have_a_limit_too(small: LiveServer) -> None:
    with connection(small) as connected:
        connected.sendall(head(small, "GET", "/health", {"X-Long": "x" * 70_000}))
        answer = reply(connected)
    assert answer.status == 431
    assert answer.json()["error"]["code"] == "headers_too_large"
    with connection(small) as connected:
        connected.sendall(head(small, "GET", "/health", {"X-Long": "x" * 1_000_000}))
        assert reply(connected).status == 400  # more than the parser will hold
    with small.client() as client:
        assert client.get("/health").status_code == 200


def test_many_slow_bodies_do_not_keep_others_out(small: LiveServer) -> None:
    with small.client("acme") as client:
        sockets = []
        for _ in range(40):
            connected = connection(small)
            sockets.append(connected)
            connected.__enter__().sendall(
                head(small, "POST", "/v1/completions", {**JSON, "Content-Length": "9"})
            )
        assert client.get("/health").status_code == 200  # while all of them are still sending
        for connected in sockets:
            connected.__exit__(None, None, None)
    assert threading.active_count() < 40
