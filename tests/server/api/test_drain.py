import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from motet.api.server import bind, run_server
from motet.errors import InvalidSetting
from motet.settings import Settings

from tests.support import serve_scripted
from tests.support.live_server import BASE_NAME, LiveServer, eventually, live_server
from tests.support.scripted_engine import ScriptedEngine

BODY = {"model": BASE_NAME, "prompt": "x", "max_tokens": 60}


class Call(threading.Thread):
    """One request on a thread of its own."""

    def __init__(self, server: LiveServer, **fields: Any) -> None:
        super().__init__()
        self._server = server
        self._body = {**BODY, **fields}
        self.reply: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        with self._server.client("acme") as client:
            self.reply = client.post("/v1/completions", json=self._body)

    def result(self) -> httpx.Response:
        self.join(20)
        assert self.reply is not None
        return self.reply


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    engine = ScriptedEngine(text="x" * 4000, step_s=0.01, max_model_len=8192)
    with live_server(tmp_path, engine=engine) as running:
        yield running


def test_running_requests_finish_and_new_ones_are_sent_away(server: LiveServer) -> None:
    calls = [Call(server), Call(server, stream=True)]
    assert eventually(lambda: server.engine.num_running == 2)
    with server.client("acme") as client:
        assert client.get("/ready").status_code == 200
        server.service.lifecycle.begin_drain()
        ready = client.get("/ready")
        refused = client.post("/v1/completions", json=BODY)
        alive, metrics = client.get("/health"), client.get("/metrics")
    assert (ready.status_code, ready.json()) == (503, {"status": "shutting down"})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "5"
    assert refused.headers["retry-after-ms"] == "5000"
    assert refused.json()["error"]["code"] == "engine_stopped"
    assert (alive.status_code, metrics.status_code) == (200, 200)
    whole, streamed = (call.result() for call in calls)
    assert whole.json()["choices"][0]["text"] == "x" * 60
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "error" not in streamed.text
    assert eventually(lambda: not server.server.started or server.server.should_exit)
    assert server.engine.ends == {"length": 2}


def test_what_outlasts_the_drain_is_told_so(tmp_path: Path) -> None:
    engine = ScriptedEngine(text="x" * 4000, step_s=0.02, max_model_len=8192)
    with live_server(tmp_path, engine=engine, drain_timeout_s=0.3) as server:
        calls = [Call(server, max_tokens=4000), Call(server, max_tokens=4000, stream=True)]
        assert eventually(lambda: engine.num_running == 2)
        server.service.lifecycle.begin_drain()
        whole, streamed = (call.result() for call in calls)
    assert whole.status_code == 503
    assert whole.headers["retry-after"] == "5"
    assert streamed.status_code == 200
    *_, error, done, nothing = streamed.text.split("\n\n")
    assert '"code":"engine_stopped"' in error
    assert (done, nothing) == ("data: [DONE]", "")
    assert engine.ends == {"cancelled": 2}


def test_a_crashed_engine_ends_everything_visibly(tmp_path: Path) -> None:
    engine = ScriptedEngine(text="x" * 4000, step_s=0.02, max_model_len=8192)
    with live_server(tmp_path, engine=engine) as server:
        calls = [Call(server, max_tokens=4000), Call(server, max_tokens=4000, stream=True)]
        assert eventually(lambda: engine.num_running == 2)
        with server.client("acme") as client:
            engine.crash()
            health = client.get("/health")
        whole, streamed = (call.result() for call in calls)
        assert health.status_code == 503
        assert whole.status_code == 503
        assert '"error"' in streamed.text
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert eventually(lambda: server.server.engine_failed)


@contextmanager
def process(directory: Path, step_s: float, **settings: str) -> Iterator[tuple[Any, str]]:
    environment = {**os.environ, **{f"MOTET_{name.upper()}": v for name, v in settings.items()}}
    running = subprocess.Popen(
        [sys.executable, str(serve_scripted.__file__), str(directory), str(step_s)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout is not None
        yield running, running.stdout.readline().strip()
    finally:
        running.kill()
        running.communicate()


def test_sigterm_drains_and_ends_well(tmp_path: Path) -> None:
    with process(tmp_path, 0.03) as (running, url), httpx.Client(base_url=url) as client:
        body = {"model": "base", "prompt": "x", "max_tokens": 100, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            running.send_signal(signal.SIGTERM)
            assert eventually(lambda: httpx.get(f"{url}/ready").status_code == 503)
            assert httpx.post(f"{url}/v1/completions", json=body).status_code == 503
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        assert running.wait(20) == 0
        assert running.stdout.read() == "ended well\n"
        log = running.stderr.read()
    assert "Traceback" not in log
    assert "No tenant is configured" in log


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    with process(tmp_path, 0.05) as (running, url):
        body = {"model": "base", "prompt": "x", "max_tokens": 1000, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            started = time.monotonic()
            running.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert running.poll() is None
            running.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert running.wait(20) == 0
        assert time.monotonic() - started < 25  # of the 50 s that the answer takes


def test_a_crashed_engine_ends_the_process_with_an_error(tmp_path: Path) -> None:
    with process(tmp_path, 0.05) as (running, url):
        body = {"model": "base", "prompt": "x", "max_tokens": 1000, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            running.send_signal(signal.SIGUSR1)
            assert list(lines)[-2] == "data: [DONE]"
        assert running.wait(20) != 0
        assert "EngineStopped: The engine failed" in running.stderr.read()


def test_it_does_not_listen_for_the_world_without_tenants(tmp_path: Path) -> None:
    with process(tmp_path, 0, host="0.0.0.0") as (running, url):
        assert url == ""
        assert running.wait(20) != 0
        assert "motet tenants create" in running.stderr.read()


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    (taken,) = bind(Settings(port=0))
    with taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSetting, match=rf"port {port}.*MOTET_PORT"):
            bind(Settings(port=port))
    with pytest.raises(InvalidSetting, match="no-such-host"):
        bind(Settings(host="no-such-host.invalid"))


def test_a_port_taken_while_the_model_was_loaded_is_said(server: LiveServer) -> None:
    """Linux lets two sockets be bound to a port as long as neither listens."""
    (first,) = bind(Settings(port=0))
    with first:
        settings = Settings(port=first.getsockname()[1])
        (second,) = bind(settings)
        with second:
            with pytest.raises(ConnectionRefusedError):  # nothing answers before it is ready
                socket.create_connection(second.getsockname(), timeout=5)
            first.listen()
            with pytest.raises(InvalidSetting, match=r"in use.*MOTET_PORT"):
                run_server(server.app, settings, [second])
