"""A damaged adapter is told as a 409 that asks for another upload; all else is answered."""

from collections.abc import Iterator

import httpx
import pytest
from motet_adapters import AdapterQuarantined

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, random_adapter
from tests.support.live_server import LiveServer, live_server


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("quarantined")) as running:
        yield running


def upload(client: httpx.Client, name: str, files: AdapterFiles) -> httpx.Response:
    form = {"a": (CONFIG_FILE, files.config_bytes), "b": (WEIGHTS_FILE, files.weights_bytes)}
    return client.put(f"/v1/adapters/{name}", files=form)


def ask(client: httpx.Client, model: str, *, stream: bool = False) -> httpx.Response:
    body = {"model": model, "prompt": "x", "max_tokens": 3, "stream": stream}
    return client.post("/v1/completions", json=body)


def damage(server: LiveServer, digest: str) -> None:
    path = server.settings.data_dir / "adapters" / "sources" / digest / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 16
    path.write_bytes(content)
    with pytest.raises(AdapterQuarantined):
        server.store._checkup.verify(digest)


def test_a_damaged_adapter_is_refused_until_it_is_uploaded_again(server: LiveServer) -> None:
    files = random_adapter(server.base)
    with server.client("acme") as client:
        digest = upload(client, "rotten", files).json()["digest"]
        upload(client, "sound", random_adapter(server.base, seed=2))
        damage(server, digest)
        for _ in range(2):
            refused = ask(client, "rotten")
            assert refused.status_code == 409
            assert refused.json()["error"]["code"] == "adapter_quarantined"
            assert refused.headers["x-should-retry"] == "false"
            assert "Upload it again" in refused.text
        for model in ("sound", "acme/Tiny-Base"):
            assert ask(client, model).status_code == 200
        assert client.get("/v1/adapters/rotten").status_code == 200
        assert upload(client, "rotten", files).status_code == 201
        assert ask(client, "rotten").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_that_finds_the_damage_is_told_the_same(
    server: LiveServer, stream: bool
) -> None:
    with server.client("acme") as client:
        digest = upload(client, "rotten", random_adapter(server.base)).json()["digest"]
        # The engine's load of it fails, as the store's check has found it damaged meanwhile.
        server.engine.broken.add("rotten")
        lease = server.store.lease
        server.store.lease = lambda *a: (lease(*a), damage(server, digest))[0]  # type: ignore[method-assign]
        answer = ask(client, "rotten", stream=stream)
    assert answer.status_code == (200 if stream else 409)
    assert "adapter_quarantined" in answer.text
