"""Clients that leave or stall: nothing of theirs may keep running or stay held."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.adapter_files import random_adapter
from tests.support.live_server import LiveServer, eventually, live_server
from tests.support.raw_http import connection, head
from tests.support.scripted_engine import ScriptedEngine

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    engine = ScriptedEngine(text="x" * 4000, step_s=0.002, max_model_len=8192)
    with live_server(tmp_path, engine=engine) as running:
        random_adapter(running.base).put(running.store, "acme", "mine")
        yield running


def ask(server: LiveServer, connected: socket.socket, *, stream: bool, n: int = 1) -> None:
    flag = "true" if stream else "false"
    body = f'{{"model": "mine", "prompt": "x", "max_tokens": 4000, "stream": {flag}, "n": {n}}}'
    headers = {**JSON, "Content-Length": str(len(body))}
    connected.sendall(head(server, "POST", "/v1/completions", headers) + body.encode())


def bytes_of_adapter(server: LiveServer, digest: str) -> bool:
    """Whether the store still keeps the adapter's files, which a lease makes it do."""
    return any(server.settings.data_dir.rglob(f"*{digest}*"))


def nothing_is_left(server: LiveServer) -> bool:
    service = server.service
    return (
        server.engine.num_running == 0
        and service.lifecycle.num_requests == 0
        and not server.server.server_state.connections
        and not server.server.server_state.tasks
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["waiting", "running"])
def test_a_client_that_hangs_up_is_forgotten(server: LiveServer, stream: bool, when: str) -> None:
    digest = server.store.get("acme", "mine").digest
    if when == "waiting":
        server.engine.held.set()
    with connection(server) as connected:
        ask(server, connected, stream=stream, n=3)
        assert eventually(lambda: server.engine.num_running == 3)
        if stream and when == "running":
            assert b"data: " in connected.recv(65536)
        server.store.delete("acme", "mine")
        assert bytes_of_adapter(server, digest)
    assert eventually(lambda: nothing_is_left(server))
    assert len(server.engine.cancelled) == 3
    assert server.engine.ends == {"cancelled": 3}
    assert eventually(lambda: not bytes_of_adapter(server, digest))


def test_many_that_hang_up_leave_nothing(server: LiveServer) -> None:
    for number in range(60):
        with connection(server) as connected:
            ask(server, connected, stream=number % 2 == 0)
            if number % 3 == 0:
                assert eventually(lambda: server.engine.num_running > 0)
    assert eventually(lambda: nothing_is_left(server))
    assert set(server.engine.ends) <= {"cancelled"}


def test_a_connection_ends_with_its_answer_if_asked(server: LiveServer) -> None:
    with connection(server) as connected:
        body = '{"model": "mine", "prompt": "x", "max_tokens": 3}'
        headers = {**JSON, "Content-Length": str(len(body)), "Connection": "close"}
        connected.sendall(head(server, "POST", "/v1/completions", headers) + body.encode())
        received = b""
        while data := connected.recv(65536):
            received += data
    assert b"200 OK" in received
    assert b'"text":"xxx"' in received


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    engine = ScriptedEngine(
        text="x" * 60_000_000, piece_len=10_000, step_s=0.0005, max_model_len=8192
    )
    with live_server(tmp_path, engine=engine, client_timeout_s=0.5) as server:
        random_adapter(server.base).put(server.store, "acme", "mine")
        with connection(server) as connected:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ask(server, connected, stream=True)
            assert eventually(lambda: engine.num_running == 1)
            # It never reads. Another client is served meanwhile.
            with server.client("acme") as client:
                body = {"model": "mine", "prompt": "x", "max_tokens": 2}
                assert client.post("/v1/completions", json=body).status_code == 200
            assert eventually(lambda: len(engine.cancelled) == 1)
            assert eventually(lambda: nothing_is_left(server))


def test_a_slow_reader_that_reads_gets_everything(tmp_path: Path) -> None:
    engine = ScriptedEngine(text="x" * 300_000, piece_len=1000, max_model_len=8192)
    with live_server(tmp_path, engine=engine) as server:
        random_adapter(server.base).put(server.store, "acme", "mine")
        with connection(server) as connected:
            ask(server, connected, stream=True)
            received = b""
            while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                received += connected.recv(3000)
        assert received.count(b"x") >= 300_000
        assert engine.cancelled == []
