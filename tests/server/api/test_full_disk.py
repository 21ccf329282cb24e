"""Uploads to a disk that is full: 507 for them, and completions go on."""

from pathlib import Path

import httpx
import pytest

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, random_adapter
from tests.support.live_server import live_server
from tests.support.small_disk import leave, release, small_disk


def ask(client: httpx.Client, model: str) -> int:
    body = {"model": model, "prompt": "x", "max_tokens": 3}
    return client.post("/v1/completions", json=body).status_code


def by_form(client: httpx.Client, files: AdapterFiles) -> httpx.Response:
    form = {"a": (CONFIG_FILE, files.config_bytes), "b": (WEIGHTS_FILE, files.weights_bytes)}
    return client.put("/v1/adapters/new", files=form)


def by_files(client: httpx.Client, files: AdapterFiles) -> httpx.Response:
    for name, data in ((CONFIG_FILE, files.config_bytes), (WEIGHTS_FILE, files.weights_bytes)):
        reply = client.put(f"/v1/adapters/new/files/{name}", content=data)
        if reply.status_code != 201:
            return reply
    return client.post("/v1/adapters/new/commit")


@pytest.mark.slow
@pytest.mark.parametrize("upload", [by_form, by_files])
def test_completions_go_on_and_later_uploads_work(tmp_path: Path, upload: object) -> None:
    assert callable(upload)
    with small_disk(tmp_path, 8 << 20) as root, live_server(root) as server:
        files, more = random_adapter(server.base), random_adapter(server.base, seed=2)
        with server.client("acme") as client:
            assert by_form(client, files).status_code == 201
            statuses = []
            for pages in (0, 1, 2, 3, 5, 8):
                leave(root, pages)
                refused = upload(client, more)
                statuses.append(refused.status_code)
                assert refused.json()["error"]["code"] == "store_full", refused.text
                assert refused.headers["x-should-retry"] == "false"
                assert ask(client, "new") == ask(client, "acme/Tiny-Base") == 200
                assert client.get("/v1/adapters/new/files").status_code == 404
            assert statuses == [507] * 6
            release(root)
            assert upload(client, more).status_code == 201
            assert ask(client, "new") == 200
