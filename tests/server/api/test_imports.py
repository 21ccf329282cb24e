"""Imports by the operator: from below an allowed prefix, and from nowhere else."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import httpx
import pytest
from motet.blobs import import_prefixes
from motet.errors import InvalidSetting
from motet.settings import Settings

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.live_server import ADMIN_KEY, LiveServer, live_server
from tests.support.s3 import s3_bucket

FILES = random_adapter(RandomBase.llama())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an allowed part, adapters in and beside it, and links between them."""
    root = tmp_path_factory.mktemp("place")
    for directory in (root / "allowed" / "good", root / "allowed-not" / "x", root / "secret"):
        save(directory, FILES)
    (root / "allowed" / "link").symlink_to(root / "secret")
    (root / "allowed" / "empty").mkdir()
    save(root / "allowed" / "bad", random_adapter(RandomBase.llama(), config={"bias": "some"}))
    return root


def save(directory: Path, files: AdapterFiles) -> None:
    directory.mkdir(parents=True)
    (directory / CONFIG_FILE).write_bytes(files.config_bytes)
    (directory / WEIGHTS_FILE).write_bytes(files.weights_bytes)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, place: Path) -> Iterator[LiveServer]:
    prefixes = f"file://{place}/allowed, s3://bucket/trained"
    directory = tmp_path_factory.mktemp("imports")
    with live_server(directory, import_prefixes=prefixes) as running:
        yield running


def importing(
    server: LiveServer, url: str, name: str = "mine", key: str = ADMIN_KEY, tenant: str = "acme"
) -> httpx.Response:
    with server.client(key=key) as client:
        return client.post(f"/admin/tenants/{tenant}/adapters/{name}/import", json={"url": url})


def test_an_import_is_an_upload_by_the_operator(server: LiveServer, place: Path) -> None:
    reply = importing(server, f"file://{place}/allowed/good")
    assert reply.status_code == 201, reply.text
    with server.client("acme") as client:
        form = {
            "a": (CONFIG_FILE, FILES.config_bytes),
            "b": (WEIGHTS_FILE, FILES.weights_bytes),
        }
        assert client.get("/v1/adapters/mine").json() == reply.json()
        assert (
            client.put("/v1/adapters/same", files=form).json()["digest"] == (reply.json()["digest"])
        )
    with server.client("other") as other:
        assert other.get("/v1/adapters/mine").status_code == 404


@pytest.mark.parametrize(
    "url",
    [
        "file://{place}/secret",
        "file://{place}/allowed",
        "file://{place}/allowed-not/x",
        "file://{place}/allowed/../secret",
        "file://{place}/allowed/./good",
        "file://{place}/allowed//good",
        "file://{place}/allowed/link",
        "file://{place}/allowed/link/../good",
        "{place}/allowed/good",
        "file:{place}/allowed/good",
        "file://localhost{place}/allowed/good",
        "local://{place}/allowed/good",
        "simplecache::file://{place}/allowed/good",
        "file://{place}/allowed/good::x",
        "file://{place}/allowed/g*",
        "file://{place}/allowed/%2e%2e/secret",
        "http://127.0.0.1/allowed/good",
        "s3://bucket/other/good",
        "s3://bucket/trained-not/good",
        "s3://bucket/trained/../other",
        "",
        "file://",
        "\u0000",
    ],
)
def test_nothing_else_is_read(server: LiveServer, place: Path, url: str) -> None:
    reply = importing(server, url.replace("{place}", str(place)), "nothing")
    assert reply.status_code == 403, reply.text
    assert reply.json()["error"]["code"] == "import_refused"
    assert str(place) not in reply.text


@pytest.mark.parametrize("path", ["allowed/empty", "allowed/no-such", "allowed/good/adapter.bin"])
def test_where_no_adapter_is_nothing_is_published(
    server: LiveServer, place: Path, path: str
) -> None:
    reply = importing(server, f"file://{place}/{path}", "nothing")
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "import_failed"
    assert str(place) not in reply.text
    assert list((server.settings.data_dir / "adapters" / "staging").iterdir()) == []


def test_an_import_is_held_to_every_check_of_an_upload(server: LiveServer, place: Path) -> None:
    reply = importing(server, f"file://{place}/allowed/bad", "nothing")
    assert reply.status_code == 422
    assert reply.json()["error"]["code"] == "adapter_refused"
    url = f"file://{place}/allowed/good"
    assert importing(server, url, "No Name").status_code == 400
    assert importing(server, url, tenant="nobody").status_code == 404


def test_it_takes_the_admin_key(server: LiveServer, place: Path) -> None:
    url = f"file://{place}/allowed/good"
    assert importing(server, url, key=server.keys["acme"]).status_code == 403
    assert importing(server, url, key="motet_unknown").status_code == 401


def test_without_prefixes_nothing_is_imported(tmp_path: Path, place: Path) -> None:
    with live_server(tmp_path) as server:
        assert importing(server, f"file://{place}/allowed/good").status_code == 403


def test_from_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_bucket(monkeypatch) as bucket:
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.pipe_file(f"{bucket}/trained/mine/{CONFIG_FILE}", FILES.config_bytes)
        fs.pipe_file(f"{bucket}/trained/mine/{WEIGHTS_FILE}", FILES.weights_bytes)
        with live_server(tmp_path, import_prefixes=f"{bucket}/trained/") as server:
            reply = importing(server, f"{bucket}/trained/mine")
            assert reply.status_code == 201, reply.text
            missing = importing(server, f"{bucket}/trained/other")
            assert missing.status_code == 422


@pytest.mark.parametrize("prefixes", ["/srv/adapters", "s3://", "file:///srv/../etc", "x"])
def test_a_prefix_that_is_none_is_refused_at_start(prefixes: str) -> None:
    with pytest.raises(InvalidSetting, match="plain URL"):
        import_prefixes(Settings(import_prefixes=prefixes))
