import base64
import hashlib
import json

import pytest

from tests.support.scripted_server import scripted_server

ADAPTER = {
    "name": "red",
    "kind": "dora",
    "ranks": [4, 8],
    "matched": {"q_proj": 30, "v_proj": 30},
    "num_parameters": 1234567,
    "source_bytes": 2000,
    "image_bytes": 3000,
    "digest": "ab" * 32,
    "created": 0,
}
REFUSED = {"error": {"message": "r is 512, more than 256.", "type": "invalid_request_error"}}


@pytest.fixture
def adapter_dir(tmp_path):
    directory = tmp_path / "red"
    directory.mkdir()
    (directory / "adapter_config.json").write_text('{"r": 4}')
    (directory / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    return directory


FILE = {"object": "adapter.file", "bytes": 1}
FRESH = {
    "GET /v1/adapters/red/files": (404, {"error": {"message": "No files."}}),
    "PUT /v1/adapters/red/files/adapter_config.json": (201, FILE),
    "POST /v1/adapters/red/files/adapter_model.safetensors": (404, {"error": {"message": "No."}}),
    "PUT /v1/adapters/red/files/adapter_model.safetensors": (201, FILE),
    "POST /v1/adapters/red/commit": (201, ADAPTER),
    "DELETE /v1/adapters/red/files": (200, {}),
}


def test_push_sends_both_files_and_shows_what_matched(run, adapter_dir):
    with scripted_server(FRESH) as server:
        result = run("adapters", "push", adapter_dir, "--url", server.url, "--key", "k")
    assert result.exit_code == 0, result.output
    config, weights = (seen for seen in server.seen if seen.method == "PUT")
    assert weights.headers["Authorization"] == "Bearer k"
    assert config.body == b'{"r": 4}'
    assert weights.body == b"weights" * 100
    assert weights.headers["Upload-Offset"] == "0"
    assert weights.headers["Repr-Digest"] == digest(b"weights" * 100)
    assert "q_proj x 30, v_proj x 30" in result.stdout
    assert "Adapter red is published." in result.stderr


def digest(data):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def test_push_under_another_name_as_a_dry_run(run, adapter_dir, monkeypatch):
    replies = {path.replace("/red", "/blue"): reply for path, reply in FRESH.items()}
    with scripted_server(replies) as server:
        monkeypatch.setenv("MOTET_URL", server.url)
        monkeypatch.setenv("MOTET_API_KEY", "from-the-environment")
        result = run("adapters", "push", adapter_dir, "--name", "blue", "--dry-run")
    *_, checked, dropped = server.seen
    assert checked.path == "/v1/adapters/blue/commit?dry_run=true"
    assert (dropped.method, dropped.path) == ("DELETE", "/v1/adapters/blue/files")
    assert checked.headers["Authorization"] == "Bearer from-the-environment"
    assert "would be accepted; nothing was published" in result.stderr


def test_the_server_s_refusal_is_told_in_its_own_words(run, adapter_dir):
    replies = {**FRESH, "POST /v1/adapters/red/commit": (422, REFUSED)}
    with scripted_server(replies) as server:
        result = run("adapters", "push", adapter_dir, "--url", server.url)
    assert result.exit_code == 2
    assert result.stderr == "Error: r is 512, more than 256.\n"


def test_a_wrong_key_says_where_to_give_it(run):
    refused = {"error": {"message": "This key is not known."}}
    with scripted_server({"GET /v1/adapters": (401, refused)}) as server:
        result = run("adapters", "list", "--url", server.url)
    assert result.stderr == (
        "Error: This key is not known. Give the tenant's key with --key (MOTET_API_KEY).\n"
    )


def test_list_is_a_table(run):
    with scripted_server({"GET /v1/adapters": (200, {"data": [ADAPTER]})}) as server:
        result = run("adapters", "list", "--url", server.url)
    row = result.stdout.splitlines()[1].split()
    assert row == ["red", "dora", "4,", "8", "1,234,567", "2,000", "ab" * 6]


def test_an_empty_list_says_what_to_do(run):
    with scripted_server({"GET /v1/adapters": (200, {"data": []})}) as server:
        result = run("adapters", "list", "--url", server.url)
    assert result.stdout == ""
    assert "motet adapters push DIR" in result.stderr


def test_import_names_tenant_adapter_and_place(run, monkeypatch):
    path = "POST /admin/tenants/acme/adapters/mine/import"
    with scripted_server({path: (201, ADAPTER)}) as server:
        monkeypatch.setenv("MOTET_ADMIN_KEY", "the-admin-key-of-the-tests")
        url = "s3://bucket/trained/mine/"
        result = run("adapters", "import", url, "--tenant", "acme", "--url", server.url)
    assert result.exit_code == 0, result.output
    (seen,) = server.seen
    assert json.loads(seen.body) == {"url": url}
    assert seen.headers["Authorization"] == "Bearer the-admin-key-of-the-tests"
    assert "Adapter mine of acme is published." in result.stderr


def test_rm_deletes_by_name(run):
    with scripted_server({"DELETE /v1/adapters/red": (204, "")}) as server:
        result = run("adapters", "rm", "red", "--url", server.url)
    assert server.seen[0].method == "DELETE"
    assert result.stdout == "Removed adapter red.\n"


@pytest.mark.parametrize("name", ["../tenants", "a/b", "a?x=1"])
def test_a_name_cannot_reach_another_route(run, name):
    with scripted_server({}) as server:
        result = run("adapters", "rm", name, "--url", server.url)
    assert result.exit_code == 2
    assert all(seen.path.startswith("/v1/adapters/") for seen in server.seen)
    assert all("/" not in seen.path.removeprefix("/v1/adapters/") for seen in server.seen)


def test_no_server_is_a_sentence(run):
    result = run("adapters", "list", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: No server answers at http://127.0.0.1:1.")


@pytest.mark.parametrize("url", ["localhost", "127.0.0.1:8000", "ftp://x"])
def test_a_url_that_is_none_is_a_sentence(run, url):
    result = run("adapters", "list", "--url", url)
    assert result.exit_code == 2
    assert "give --url http://HOST:PORT" in result.stderr


def test_an_answer_of_some_other_server_is_a_sentence(run):
    with scripted_server({"GET /v1/adapters": (200, "<html>")}) as server:
        result = run("adapters", "list", "--url", server.url)
    assert result.exit_code == 2
    assert "is it a Motet server?" in result.stderr


@pytest.mark.parametrize(
    ("remove", "add", "sentence"),
    [
        ("adapter_config.json", None, "has no adapter_config.json"),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("adapter_model.safetensors", "adapter_model.bin", "a pickle"),
    ],
)
def test_a_directory_without_an_adapter_is_refused_before_anything_is_sent(
    run, adapter_dir, remove, add, sentence
):
    (adapter_dir / remove).unlink()
    if add:
        (adapter_dir / add).write_bytes(b"")
    with scripted_server({}) as server:
        result = run("adapters", "push", adapter_dir, "--url", server.url)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert server.seen == []


def test_no_directory_is_a_sentence(run, tmp_path):
    result = run("adapters", "push", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "is no directory" in result.stderr


def test_versions_are_a_table_with_the_served_one_marked(run):
    data = [{**ADAPTER, "version": 2, "current": False}, {**ADAPTER, "version": 1, "current": True}]
    with scripted_server({"GET /v1/adapters/red/versions": (200, {"data": data})}) as server:
        result = run("adapters", "versions", "red", "--url", server.url)
    newer, served = (line.split() for line in result.stdout.splitlines()[1:])
    assert newer[:2] == ["2", "dora"]
    assert served[:3] == ["*", "1", "dora"]


def test_rollback_asks_for_a_version_or_for_the_one_before(run):
    with scripted_server(
        {"POST /v1/adapters/red/rollback": (200, {**ADAPTER, "version": 1})}
    ) as server:
        result = run("adapters", "rollback", "red", "--url", server.url)
        run("adapters", "rollback", "red", "--version", "3", "--url", server.url)
    assert result.stdout == "Adapter red serves version 1 again.\n"
    assert [seen.path for seen in server.seen] == [
        "/v1/adapters/red/rollback",
        "/v1/adapters/red/rollback?version=3",
    ]
