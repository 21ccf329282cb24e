"""An upload file by file: continued where a connection broke, whole or not published."""

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from motet.api.uploads import _REST_S
from motet_adapters import StoreFull
from motet_adapters.staging import Staging

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, random_adapter
from tests.support.live_server import LiveServer, eventually, live_server
from tests.support.raw_http import connection, head

PATH = "/v1/adapters/mine"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("file-uploads"), client_timeout_s=5) as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client("acme") as client:
        yield client
        client.delete(f"{PATH}/files")
        client.delete(PATH)


@pytest.fixture
def files(server: LiveServer) -> AdapterFiles:
    return random_adapter(server.base)


def repr_digest(data: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return {"Repr-Digest": f"sha-256=:{digest}:"}


def cut_off(server: LiveServer, filename: str, data: bytes, declared: int, **more: str) -> None:
    """Send `data` of a file that was to be `declared` bytes long, and break the connection."""
    with connection(server) as connected:
        headers = {"Content-Length": str(declared), **more}
        connected.sendall(head(server, "PUT", f"{PATH}/files/{filename}", headers) + data)


def sent(client: httpx.Client) -> dict[str, tuple[int, bool]]:
    reply = client.get(f"{PATH}/files")
    if reply.status_code != 200:
        return {}
    return {file["filename"]: (file["bytes"], file["complete"]) for file in reply.json()["files"]}


def test_a_broken_upload_is_continued_where_it_broke(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    weights = files.weights_bytes
    half = len(weights) // 2
    cut_off(server, WEIGHTS_FILE, weights[:half], len(weights))
    assert eventually(lambda: sent(client) == {WEIGHTS_FILE: (half, False)})
    early = client.post(f"{PATH}/commit")
    assert early.status_code == 409
    assert early.json()["error"]["code"] == "upload_incomplete"
    quarter = {"Upload-Offset": str(half)}
    cut_off(server, WEIGHTS_FILE, weights[half : half + 100], len(weights) - half, **quarter)
    assert eventually(lambda: sent(client) == {WEIGHTS_FILE: (half + 100, False)})
    for wrong in (0, half, len(weights)):
        refused = client.put(
            f"{PATH}/files/{WEIGHTS_FILE}", content=b"x", headers={"Upload-Offset": str(wrong)}
        )
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "wrong_offset"
        assert str(half + 100) in refused.json()["error"]["message"]
    rest = client.put(
        f"{PATH}/files/{WEIGHTS_FILE}",
        content=weights[half + 100 :],
        headers={"Upload-Offset": str(half + 100), **repr_digest(weights)},
    )
    assert rest.status_code == 201, rest.text
    assert rest.json()["bytes"] == len(weights)
    assert rest.json()["sha256"] == hashlib.sha256(weights).hexdigest()
    client.put(f"{PATH}/files/{CONFIG_FILE}", content=files.config_bytes)
    assert sent(client)[WEIGHTS_FILE] == (len(weights), True)
    done = client.post(f"{PATH}/commit")
    assert done.status_code == 201, done.text
    form = {"a": (CONFIG_FILE, files.config_bytes), "b": (WEIGHTS_FILE, weights)}
    assert client.put(PATH, files=form).json()["digest"] == done.json()["digest"]
    assert sent(client) == {}


def test_without_an_offset_a_file_begins_anew(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    cut_off(server, WEIGHTS_FILE, b"something else" * 100, 5000)
    assert eventually(lambda: WEIGHTS_FILE in sent(client))
    client.put(f"{PATH}/files/{CONFIG_FILE}", content=files.config_bytes)
    whole = client.put(
        f"{PATH}/files/{WEIGHTS_FILE}",
        content=files.weights_bytes,
        headers=repr_digest(files.weights_bytes),
    )
    assert whole.status_code == 201, whole.text
    assert client.post(f"{PATH}/commit").status_code == 201


def test_what_does_not_have_its_digest_is_dropped(
    client: httpx.Client, files: AdapterFiles
) -> None:
    reply = client.put(
        f"{PATH}/files/{CONFIG_FILE}",
        content=files.config_bytes + b" ",
        headers=repr_digest(files.config_bytes),
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "digest_mismatch"
    assert sent(client) == {}


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Upload-Offset", "-1"),
        ("Upload-Offset", "1e3"),
        ("Upload-Offset", "9" * 30),
        ("Repr-Digest", "sha-256=abc"),
        ("Repr-Digest", "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:"),
        ("Repr-Digest", "sha-256=:AAAA:"),
        ("Repr-Digest", ""),
    ],
)
def test_a_header_that_is_none_is_refused_before_anything_is_kept(
    client: httpx.Client, header: str, value: str
) -> None:
    reply = client.put(f"{PATH}/files/{CONFIG_FILE}", content=b"{}", headers={header: value})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == header.lower()
    assert sent(client) == {}


def test_weights_that_are_stored_need_not_be_sent_again(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    weights = files.weights_bytes
    again = f"/v1/adapters/again/files/{WEIGHTS_FILE}"
    assert client.post(again, headers=repr_digest(weights)).status_code == 404
    form = {"a": (CONFIG_FILE, files.config_bytes), "b": (WEIGHTS_FILE, weights)}
    first = client.put(PATH, files=form).json()
    files.config["lora_alpha"] = 3
    client.put(f"/v1/adapters/again/files/{CONFIG_FILE}", content=files.config_bytes)
    unknown = client.post(again, headers=repr_digest(b"other"))
    assert unknown.status_code == 404  # and the config is still there
    reused = client.post(again, headers=repr_digest(weights))
    assert reused.status_code == 201, reused.text
    assert reused.json()["bytes"] == len(weights)
    done = client.post("/v1/adapters/again/commit")
    assert done.status_code == 201, done.text
    assert done.json()["digest"] != first["digest"]
    assert done.json()["num_parameters"] == first["num_parameters"]
    client.delete("/v1/adapters/again")


def test_no_tenant_learns_what_another_has_stored(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    form = {"a": (CONFIG_FILE, files.config_bytes), "b": (WEIGHTS_FILE, files.weights_bytes)}
    assert client.put(PATH, files=form).status_code == 201
    path = f"{PATH}/files/{WEIGHTS_FILE}"
    with server.client("other") as other:
        foreign = other.post(path, headers=repr_digest(files.weights_bytes))
        missing = other.post(path, headers=repr_digest(b"nobody has it"))
    assert foreign.status_code == missing.status_code == 404
    assert foreign.content == missing.content


def test_rotten_weights_are_not_used_again(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    form = {"a": (CONFIG_FILE, files.config_bytes), "b": (WEIGHTS_FILE, files.weights_bytes)}
    digest = client.put(PATH, files=form).json()["digest"]
    path = server.settings.data_dir / "adapters" / "sources" / digest / WEIGHTS_FILE
    path.write_bytes(files.weights_bytes[:-1] + b"\x7f")
    again = f"/v1/adapters/again/files/{WEIGHTS_FILE}"
    assert client.post(again, headers=repr_digest(files.weights_bytes)).status_code == 404
    body = {"model": "mine", "prompt": "x", "max_tokens": 3}
    assert client.post("/v1/completions", json=body).status_code == 409
    assert client.put(PATH, files=form).status_code == 201
    assert client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("filename", [CONFIG_FILE, "x"])
def test_only_weights_are_used_again(client: httpx.Client, filename: str) -> None:
    reply = client.post(f"{PATH}/files/{filename}", headers=repr_digest(b""))
    assert reply.status_code == 400
    assert client.post(f"{PATH}/files/{WEIGHTS_FILE}").status_code == 400


def test_another_tenant_sees_nothing_of_an_upload(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    client.put(f"{PATH}/files/{CONFIG_FILE}", content=files.config_bytes)
    with server.client("other") as other:
        foreign, missing = other.get(f"{PATH}/files"), other.get("/v1/adapters/no-such/files")
    assert foreign.status_code == missing.status_code == 404
    assert foreign.content == missing.content


def test_a_full_disk_while_a_file_comes_drops_the_upload(
    client: httpx.Client, files: AdapterFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreFull

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "write", full)
        reply = client.put(f"{PATH}/files/{CONFIG_FILE}", content=files.config_bytes)
    assert reply.status_code == 507
    assert sent(client) == {}


def test_an_interrupted_upload_ends_with_the_server(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        cut_off(server, CONFIG_FILE, b"{", 100)
        with server.client("acme") as client:
            assert eventually(lambda: sent(client) == {CONFIG_FILE: (1, False)})
    assert list((tmp_path / "adapters" / "staging").iterdir()) == []


@pytest.mark.parametrize("is_generating", [False, True])
def test_bytes_rest_on_their_way_in_while_tokens_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_generating: bool
) -> None:
    rests: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        rests.append(seconds)
        await sleep(seconds)

    with live_server(tmp_path) as server, server.client("acme") as client:
        monkeypatch.setattr(server.service.desk, "_is_generating", lambda: is_generating)
        monkeypatch.setattr("motet.api.uploads.asyncio.sleep", counted)
        reply = client.put(f"{PATH}/files/{WEIGHTS_FILE}", content=bytes(4 << 20))
        monkeypatch.undo()
    assert reply.status_code == 201
    assert (rests.count(_REST_S) >= 3) == is_generating
