"""Two `motet serve` processes over one PostgreSQL and one S3, each with the model and real weights:
what one is told counts on the other soon."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from motet.engine.base import open_base

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.live_server import ADMIN_KEY, eventually
from tests.support.s3 import s3_bucket
from tests.support.server_process import server_process
from tests.support.tiny_models import make_checkpoint

QUESTION = {
    "model": "mine",
    "prompt": "one two",
    "max_tokens": 8,
    "temperature": 0,
    "ignore_eos": True,
}


class Servers(NamedTuple):
    first: httpx.Client
    second: httpx.Client
    uploads: list[dict[str, Any]]  # different adapters, as forms


@pytest.fixture
def servers(
    tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Servers]:
    """With no tenant yet; each with a data directory of its own."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    base = open_base(str(checkpoint), cache_dir=tmp_path / "cache")
    uploads = []
    for seed in (1, 2):
        files = random_adapter(base, rank=8, seed=seed, dora=seed == 2)
        named = {CONFIG_FILE: files.config_bytes, WEIGHTS_FILE: files.weights_bytes}
        uploads.append({name: (name, data) for name, data in named.items()})
    with ExitStack() as stack:
        bucket = stack.enter_context(s3_bucket(monkeypatch))
        clients = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "bases").symlink_to(tmp_path / "cache" / "bases")
            server = stack.enter_context(
                server_process(
                    *("--base", str(checkpoint), "--data-dir", str(tmp_path / name)),
                    *("--database-url", postgresql_url, "--blob-url", f"{bucket}/motet"),
                    *("--kv-cache-bytes", "16MiB", "--dtype", "float32", "--threads", "1"),
                    *("--admin-key", ADMIN_KEY),
                )
            )
            clients.append(stack.enter_context(httpx.Client(base_url=server.url, timeout=60)))
        yield Servers(clients[0], clients[1], uploads)


def answer(server: httpx.Client, key: str) -> tuple[int, str | None, str | None]:
    """(status, digest that answered, text)."""
    headers = {"Authorization": f"Bearer {key}"}
    reply = server.post("/v1/completions", json=QUESTION, headers=headers)
    if reply.status_code != 200:
        return reply.status_code, None, None
    text = reply.json()["choices"][0]["text"]
    return reply.status_code, reply.headers["x-adapter-digest"], text


def by_operator(server: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    reply = server.request(method, f"/admin/tenants{path}", headers=headers, **more)
    assert reply.is_success, reply.text
    return reply


@pytest.mark.slow
def test_what_one_is_told_the_other_serves_soon(servers: Servers) -> None:
    first, second, uploads = servers
    key = by_operator(first, "POST", "", json={"name": "acme"}).json()["key"]
    assert eventually(lambda: answer(second, key)[0] == 404)
    headers = {"Authorization": f"Bearer {key}"}
    for form in uploads:  # a new name, then a new version of it
        uploaded = first.put("/v1/adapters/mine", files=form, headers=headers)
        assert uploaded.status_code == 201, uploaded.text
        digest = uploaded.json()["digest"]
        assert eventually(lambda: answer(second, key)[1] == digest)  # noqa: B023
        assert answer(second, key) == answer(first, key)  # to the letter
    by_operator(first, "POST", "/acme/suspend")
    assert eventually(lambda: answer(second, key)[0] == 401)
    by_operator(second, "POST", "/acme/resume")
    assert eventually(lambda: answer(first, key)[0] == 200)
    assert second.delete("/v1/adapters/mine", headers=headers).status_code == 200
    assert eventually(lambda: answer(first, key)[0] == 404)
    by_operator(first, "DELETE", "/acme", params={"confirm": "acme"})
    assert eventually(lambda: answer(second, key)[0] == 401)
