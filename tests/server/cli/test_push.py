"""`motet adapters push` against the real API, over connections that break."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from motet.cli.adapter_files import AdapterFiles as Files
from motet.cli.remote import Remote, ServerRefused
from motet.cli.uploading import Upload

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles, random_adapter
from tests.support.live_server import LiveServer, live_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("push"), client_timeout_s=2) as running:
        yield running


def saved(directory: Path, files: AdapterFiles) -> Files:
    directory.mkdir(exist_ok=True)
    (directory / CONFIG_FILE).write_bytes(files.config_bytes)
    (directory / WEIGHTS_FILE).write_bytes(files.weights_bytes)
    return Files.find(directory)


def large(server: LiveServer, seed: int = 1) -> AdapterFiles:
    """Larger than what sockets hold, so that a break leaves part of it."""
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return random_adapter(server.base, targets=targets, rank=64, seed=seed)


@contextmanager
def breaking(server: LiveServer, after: list[int]) -> Iterator[str]:
    """A way to the server whose n-th connection breaks after that many bytes of requests."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def copy(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        try:
            while data := source.recv(4096 if limit is None else min(4096, limit)):
                target.sendall(data)
                if limit is not None:
                    limit -= len(data)
                    if limit <= 0:
                        break
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            limit = after.pop(0) if after else None
            upstream = socket.create_connection(server.address)
            for pair in ((client, upstream, limit), (upstream, client, None)):
                threads.append(threading.Thread(target=copy, args=pair, daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(60)


def pushed(url: str, key: str, files: Files) -> tuple[dict[str, object], list[int]]:
    reports: list[int] = []
    with Remote(url, key) as remote:
        upload = Upload(remote, "/v1/adapters/mine", files, reports.append)
        upload.send()
        return upload.commit(dry_run=False), reports


def test_it_goes_on_where_the_connection_broke(server: LiveServer, tmp_path: Path) -> None:
    files = saved(tmp_path, large(server))
    size = files.weights.stat().st_size
    after = [size // 3, size // 4]
    with breaking(server, after) as url:
        adapter, reports = pushed(url, server.keys["acme"], files)
    assert after == []
    assert adapter["source_bytes"] == files.num_bytes() == reports[-1]
    assert server.store.get("acme", "mine").digest == adapter["digest"]
    # Far less than the file three times: each connection went on where the last one ended.
    sent = sum(
        max(later - earlier, 0) for earlier, later in zip([0, *reports], reports, strict=False)
    )
    assert sent < 1.5 * size


def test_what_is_stored_is_not_sent_again(server: LiveServer, tmp_path: Path) -> None:
    files = saved(tmp_path, large(server, seed=2))
    first, _ = pushed(server.url, server.keys["acme"], files)
    # So few bytes of requests would not hold the weights.
    with breaking(server, [20_000]) as url:
        second, reports = pushed(url, server.keys["acme"], files)
    assert second["digest"] == first["digest"]
    assert len(reports) <= 4
    other, reports = pushed(server.url, server.keys["other"], files)
    assert other["digest"] == first["digest"]
    assert len(reports) > 3  # another tenant's bytes are its own to send


def test_the_leftovers_of_another_upload_do_not_get_into_it(
    server: LiveServer, tmp_path: Path
) -> None:
    with server.client("acme") as client:
        client.put(f"/v1/adapters/mine/files/{CONFIG_FILE}", content=b'{"r": 3}')
        client.put(f"/v1/adapters/mine/files/{WEIGHTS_FILE}", content=b"another")
    files = saved(tmp_path, large(server, seed=3))
    adapter, _ = pushed(server.url, server.keys["acme"], files)
    assert adapter["source_bytes"] == files.num_bytes()


def test_a_server_that_stays_away_is_told(
    server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motet.cli.uploading.time.sleep", lambda seconds: None)
    files = saved(tmp_path, large(server, seed=4))
    with breaking(server, [500] * 100) as url, pytest.raises(ServerRefused, match=r"broke|answer"):
        pushed(url, server.keys["acme"], files)
