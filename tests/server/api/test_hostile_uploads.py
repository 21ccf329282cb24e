"""The hostile corpus over the real route: each refused in time and in memory, nothing changed.

The limits are those of tests/support/hostile_costs.py: 2 s of CPU, 300 MB, no code run, no file
opened outside the data directory.
"""

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from tests.support.hostile_costs import counted
from tests.support.hostile_files import corpus, pickle_bomb, safetensors, taken_apart, valid
from tests.support.live_server import LiveServer

CASES = corpus()


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client("acme") as client:
        files = valid()
        # What is imported at the first use is not the uploads' doing.
        for config in (files.config_bytes, b"{}"):
            send(client, config, files.weights_bytes)
        assert client.delete("/v1/adapters/hostile").status_code == 200
        yield client


def send(client: httpx.Client, config: bytes, weights: bytes) -> httpx.Response:
    parts = {
        CONFIG_FILE: (CONFIG_FILE, config),
        WEIGHTS_FILE: (WEIGHTS_FILE, weights),
    }
    return client.put("/v1/adapters/hostile", files=parts)


def left_behind(server: LiveServer) -> list[str]:
    return os.listdir(server.settings.data_dir / "adapters" / "staging")


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_upload_is_refused(server: LiveServer, client: httpx.Client, name: str) -> None:
    case = CASES[name]
    before = client.get("/v1/adapters").json()
    with counted() as costs:
        reply = send(client, case.config, case.weights)
    assert reply.status_code in (413, 422), reply.text
    message = reply.json()["error"]["message"]
    assert re.search(case.says, message), message
    assert message.isascii()
    assert message.isprintable()
    assert len(reply.content) < 8192
    assert str(server.settings.data_dir) not in reply.text
    costs.require_modest(server.settings.data_dir)
    assert client.get("/v1/adapters").json() == before
    assert left_behind(server) == []


def test_metadata_is_no_more_than_bytes(server: LiveServer, client: httpx.Client) -> None:
    files = valid()
    header, data = taken_apart(files.weights_bytes)
    header["__metadata__"] = {"a": "x" * 900_000, "../b": "\0\u202e"}
    weights = safetensors(json.dumps(header).encode(), data)
    with counted() as costs:
        reply = send(client, files.config_bytes, weights)
    assert reply.status_code == 201, reply.text
    costs.require_modest(server.settings.data_dir)
    assert "x" * 100 not in reply.text
    assert client.delete("/v1/adapters/hostile").status_code == 200


def test_a_pickle_is_never_opened(server: LiveServer, client: httpx.Client, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    bomb = pickle_bomb(str(marker))
    for config, weights in ((bomb, bomb), (valid().config_bytes, bomb)):
        assert send(client, config, weights).status_code == 422
    assert not marker.exists()
    with counted() as costs:
        pickle.loads(bomb)  # the bomb is live, and the watch would have seen it
    assert marker.exists()
    seen = {event.split()[0] for event in costs.code_events}
    assert seen >= {"pickle.find_class", "os.system"}


def test_the_limits_can_be_exceeded(tmp_path: Path) -> None:
    def work() -> None:
        bytes(bytearray(400 << 20))
        exec(compile("1", "x", "exec"))
        Path(__file__).read_bytes()

    with counted() as costs:
        work()
    assert costs.extra_bytes > 300 << 20
    assert {event.split()[0] for event in costs.code_events} == {"compile", "exec"}
    assert costs.opened == [Path(__file__)]
    with pytest.raises(AssertionError):
        costs.require_modest(tmp_path)
