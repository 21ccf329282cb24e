"""`motet serve --demo` from the outside: a process, its output, its socket, a signal."""

import json
import stat

import httpx
import pytest
from motet.demo.catalog import DEMO_TENANTS

from tests.support.live_server import eventually
from tests.support.server_process import demo_server

pytestmark = pytest.mark.slow
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def server(data_dir):
    flags = ("--kv-cache-bytes", "128MiB", "--max-model-len", "1024")
    with demo_server(data_dir, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def keys(server, data_dir):
    return json.loads((data_dir / "demo-keys.json").read_text())


def _client(server, key=None):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=server.url, headers=headers, timeout=TIMEOUT_S)


def test_it_says_what_is_there_in_at_most_twelve_lines(server):
    assert len(server.lines) <= 12
    text = "\n".join(server.lines)
    for part in ("SmolLM2-135M-Instruct", "CPU", "KV cache", "3 in the store", "3 tenants"):
        assert part in text
    assert f"{server.url}/v1" in text
    health = httpx.get(f"{server.url}/health").json()
    assert f"{health['kernels']['implementation']} kernels" in text


def test_the_printed_curl_line_is_answered(server):
    url, headers, body = server.curl
    answer = httpx.post(url, headers=headers, json=body, timeout=TIMEOUT_S)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.headers["x-adapter-digest"]


def test_each_demo_tenant_has_its_own_adapter_and_sees_no_other(server, keys):
    for one in DEMO_TENANTS:
        with _client(server, keys[one.tenant]) as client:
            models = [model["id"] for model in client.get("/v1/models").json()["data"]]
            assert models == ["SmolLM2-135M-Instruct", one.adapter]
            assert client.get(f"/v1/adapters/{one.adapter}").json()["kind"] == one.kind


def test_the_keys_are_needed_and_private(server, data_dir):
    with _client(server) as client:
        assert client.get("/v1/models").status_code == 401
    mode = (data_dir / "demo-keys.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_the_client_commands_work_against_it(server, keys, run):
    one = DEMO_TENANTS[0]
    place = ("--url", server.url, "--key", keys[one.tenant])
    pushed = run("adapters", "push", one.directory, "--name", "again", *place)
    assert pushed.exit_code == 0, pushed.output
    assert "is published" in pushed.stderr
    listed = run("adapters", "list", *place).stdout
    assert one.adapter in listed
    assert "again" in listed
    flags = ("--max-tokens", 8, "--temperature", 0, *place)
    named = run("generate", one.prompt, "--model", one.adapter, *flags)
    same = run("generate", one.prompt, "--model", "again", *flags)
    assert named.stdout == same.stdout != "\n"
    assert run("generate", "Once upon a time", "--raw", *flags).stdout.strip()
    assert run("adapters", "rm", "again", *place).exit_code == 0
    assert "again" not in run("adapters", "list", *place).stdout


def test_a_tenant_made_beside_it_is_served_at_once(server, data_dir, run):
    key = run("tenants", "create", "late", "--data-dir", data_dir).stdout.strip()
    with _client(server, key) as client:
        assert client.get("/v1/models").status_code == 200
        run("tenants", "suspend", "late", "--data-dir", data_dir)
        assert eventually(lambda: client.get("/v1/models").status_code == 401)


def test_sigterm_lets_a_stream_finish_and_then_ends_well(server):
    url, headers, body = server.curl
    body = {**body, "stream": True, "ignore_eos": True, "max_tokens": 48}
    with httpx.stream("POST", url, headers=headers, json=body, timeout=TIMEOUT_S) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
        next(lines)
        server.terminate()
        events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert server.wait() == 0
