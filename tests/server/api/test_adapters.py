import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from motet_adapters import AdapterNotFound

from tests.support.adapter_files import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    AdapterFiles,
    random_adapter,
)
from tests.support.base_weights import RandomBase
from tests.support.live_server import BASE_NAME, LiveServer, eventually, live_server


@pytest.fixture(scope="module")
def files(server: LiveServer) -> AdapterFiles:
    return random_adapter(server.base, seed=41)


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client("acme") as client:
        yield client


def form(files: AdapterFiles) -> dict[str, Any]:
    return {
        CONFIG_FILE: (CONFIG_FILE, files.config_bytes),
        WEIGHTS_FILE: (WEIGHTS_FILE, files.weights_bytes),
    }


def staged(server: LiveServer) -> int:
    """Uploads that still hold disk."""
    return len(list((server.settings.data_dir / "adapters" / "staging").iterdir()))


def test_an_upload_is_lowered_on_one_core(server: LiveServer) -> None:
    mine = torch.get_num_threads()
    assert server.service.publisher.submit(torch.get_num_threads).result(20) == 1
    assert torch.get_num_threads() == mine


def test_an_upload_says_what_was_matched(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    reply = client.put("/v1/adapters/new", files=form(files))
    assert reply.status_code == 201
    assert reply.headers["location"] == "/v1/adapters/new"
    document = reply.json()
    size = len(files.config_bytes) + len(files.weights_bytes)
    assert document["id"] == document["name"] == "new"
    assert document["object"] == "adapter"
    assert document["kind"] == "lora"
    assert document["ranks"] == [4]
    assert document["matched"] == {"q_proj": 2, "v_proj": 2}
    assert document["bytes"] == document["source_bytes"] == size
    assert document["num_parameters"] == sum(each.numel() for each in files.tensors.values())
    assert document["digest"] == server.store.get("acme", "new").digest
    assert client.get("/v1/adapters/new").json() == document
    assert document in client.get("/v1/adapters").json()["data"]
    body = {"model": "new", "prompt": "x", "max_tokens": 2}
    assert (
        client.post("/v1/completions", json=body).headers["x-adapter-digest"]
        == (document["digest"])
    )
    assert client.delete("/v1/adapters/new").json() == {
        "id": "new",
        "object": "adapter",
        "deleted": True,
    }
    assert client.get("/v1/adapters/new").status_code == 404
    assert client.post("/v1/completions", json=body).status_code == 404


def test_a_part_may_be_named_by_its_field(client: httpx.Client, files: AdapterFiles) -> None:
    parts = {
        "a": (CONFIG_FILE, files.config_bytes),
        WEIGHTS_FILE: ("blob", files.weights_bytes),
    }
    refused = client.put("/v1/adapters/named", files=parts, params={"dry_run": "true"})
    assert refused.status_code == 422  # a file name, where there is one, is what counts
    boundary = "x" * 20
    body = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % (boundary.encode(), name.encode(), data)
        for name, data in ((CONFIG_FILE, files.config_bytes), (WEIGHTS_FILE, files.weights_bytes))
    )
    reply = client.put(
        "/v1/adapters/named",
        params={"dry_run": "true"},
        content=body + b"--%s--\r\n" % boundary.encode(),
        headers={"content-type": f"multipart/form-data; boundary={boundary}"},
    )
    assert reply.status_code == 200, reply.text


def test_a_dry_run_publishes_nothing(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    reply = client.put("/v1/adapters/dry", files=form(files), params={"dry_run": "true"})
    assert reply.status_code == 200
    assert reply.json()["dry_run"] is True
    assert reply.json()["matched"] == {"q_proj": 2, "v_proj": 2}
    with pytest.raises(AdapterNotFound):
        server.store.get("acme", "dry")
    assert staged(server) == 0


def hira(base: RandomBase) -> AdapterFiles:
    """Of a family that folds into no product."""
    random = torch.Generator().manual_seed(6)
    tensors = {}
    for module in base.modules():
        if module.endswith("q_proj"):
            n, k = base.shape(module)
            tensors[f"{PREFIX}{module}.hira_A"] = torch.randn(3, k, generator=random)
            tensors[f"{PREFIX}{module}.hira_B"] = torch.randn(n, 3, generator=random)
    return AdapterFiles({"peft_type": "HIRA", "r": 3, "target_modules": ["q_proj"]}, tensors)


def test_what_does_not_fold_is_refused_or_converted_if_asked(
    server: LiveServer, client: httpx.Client
) -> None:
    parts = form(hira(server.base))
    refused = client.put("/v1/adapters/hira", files=parts)
    assert refused.status_code == 422
    assert "lossy=true" in refused.json()["error"]["message"]
    how = {"lossy": "true", "rank": "4"}
    checked = client.put("/v1/adapters/hira", files=parts, params={**how, "dry_run": "true"})
    reply = client.put("/v1/adapters/hira", files=parts, params=how)
    assert reply.status_code == 201
    document = reply.json()
    assert document["ranks"] == [4]
    assert set(document["lossy_errors"]) == {m for m in server.base.modules() if "q_proj" in m}
    assert all(0 < error < 1 for error in document["lossy_errors"].values())
    assert checked.json()["lossy_errors"] == document["lossy_errors"]
    assert client.get("/v1/adapters/hira").json()["lossy_errors"] == document["lossy_errors"]
    assert client.put("/v1/adapters/hira", files=parts, params={"lossy": "true"}).json()[
        "ranks"
    ] == [32]
    assert client.delete("/v1/adapters/hira").status_code == 200


def test_the_option_says_nothing_alone(
    client: httpx.Client, server: LiveServer, files: AdapterFiles
) -> None:
    alone = client.put("/v1/adapters/no", files=form(hira(server.base)), params={"rank": "4"})
    assert (alone.status_code, alone.json()["error"]["param"]) == (400, "rank")
    exact = client.put("/v1/adapters/no", files=form(files), params={"lossy": "true"})
    assert (exact.status_code, exact.json()["error"]["param"]) == (422, "lossy")
    too_large = client.put(
        "/v1/adapters/no",
        files=form(hira(server.base)),
        params={"lossy": "true", "rank": "100000"},
    )
    assert (too_large.status_code, too_large.json()["error"]["param"]) == (422, "rank")
    assert client.get("/v1/adapters/no").status_code == 404


def test_a_misspelt_dry_run_publishes_nothing_either(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    reply = client.put("/v1/adapters/dry", files=form(files), params={"dryrun": "true"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "unknown_parameter"
    assert client.put("/v1/adapters/dry", files=form(files), params={"dry_run": "perhaps"}).json()[
        "error"
    ]["param"] == ("dry_run")
    with pytest.raises(AdapterNotFound):
        server.store.get("acme", "dry")


def test_files_can_come_one_by_one(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    path = "/v1/adapters/piecewise"
    first = client.put(f"{path}/files/{CONFIG_FILE}", content=files.config_bytes)
    assert first.status_code == 201
    assert first.json()["bytes"] == len(files.config_bytes)
    twice = client.put(f"{path}/files/{CONFIG_FILE}", content=files.config_bytes)
    assert twice.status_code == 409
    assert twice.headers["x-should-retry"] == "false"
    second = client.put(f"{path}/files/{WEIGHTS_FILE}", content=files.weights_bytes)
    assert second.json()["bytes"] == len(files.weights_bytes)
    dry = client.post(f"{path}/commit", params={"dry_run": "true"})
    assert dry.status_code == 200, dry.text
    assert client.get(path).status_code == 404
    late = client.put(f"{path}/files/{CONFIG_FILE}", content=b"{}")
    assert late.status_code == 409
    foreign = client.put(f"{path}/files/README.md", content=b"{}")
    assert foreign.status_code == 422  # and the files that came in well are still there
    done = client.post(f"{path}/commit")
    assert done.status_code == 201, done.text
    assert done.json()["digest"] == dry.json()["digest"]
    assert client.post(f"{path}/commit").json()["error"]["code"] == "upload_not_found"
    assert client.get(path).json() == done.json()
    client.delete(path)
    assert staged(server) == 0


def test_files_that_were_sent_can_be_dropped(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    path = "/v1/adapters/dropped"
    client.put(f"{path}/files/{CONFIG_FILE}", content=files.config_bytes)
    assert staged(server) == 1
    assert client.delete(f"{path}/files").status_code == 200
    assert staged(server) == 0
    assert client.delete(f"{path}/files").status_code == 404
    assert client.post(f"{path}/commit").status_code == 404


def test_another_tenant_cannot_touch_files_that_were_sent(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    path = "/v1/adapters/secret"
    client.put(f"{path}/files/{CONFIG_FILE}", content=files.config_bytes)
    with server.client("other") as other:
        assert other.post(f"{path}/commit").status_code == 404
        assert other.delete(f"{path}/files").status_code == 404
    assert client.delete(f"{path}/files").status_code == 200


def test_a_refused_commit_leaves_nothing(
    server: LiveServer, client: httpx.Client, files: AdapterFiles
) -> None:
    path = "/v1/adapters/half"
    client.put(f"{path}/files/{CONFIG_FILE}", content=files.config_bytes)
    reply = client.post(f"{path}/commit")
    assert reply.status_code == 422
    assert WEIGHTS_FILE in reply.json()["error"]["message"]
    assert staged(server) == 0
    for number in range(5):
        reply = client.put(f"/v1/adapters/t{number}/files/{CONFIG_FILE}", content=b"{}")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "too_many_uploads"
    assert reply.headers["retry-after"] == "1"
    for number in range(4):
        assert client.delete(f"/v1/adapters/t{number}/files").status_code == 200
    assert staged(server) == 0


def test_only_if_new(server: LiveServer, client: httpx.Client, files: AdapterFiles) -> None:
    once = {"if-none-match": "*"}
    assert client.put("/v1/adapters/once", files=form(files), headers=once).status_code == 201
    again = client.put("/v1/adapters/once", files=form(files), headers=once)
    assert again.status_code == 412
    assert again.json()["error"]["code"] == "adapter_exists"
    assert client.put("/v1/adapters/once", files=form(files)).status_code == 201
    client.delete("/v1/adapters/once")


def test_of_many_that_may_only_create_one_does(server: LiveServer, files: AdapterFiles) -> None:
    statuses: list[int] = []

    def upload() -> None:
        with server.client("acme") as client:
            reply = client.put(
                "/v1/adapters/raced", files=form(files), headers={"if-none-match": "*"}
            )
            statuses.append(reply.status_code)

    threads = [threading.Thread(target=upload) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201, 412, 412, 412, 412, 412]
    server.store.delete("acme", "raced")


def test_the_list_comes_in_pages(server: LiveServer, client: httpx.Client) -> None:
    for seed, name in enumerate(("p1", "p2", "p3")):
        random_adapter(server.base, seed=70 + seed).put(server.store, "acme", name)
    names: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = client.get("/v1/adapters", params={"limit": "2", **after}).json()
        names += [adapter["id"] for adapter in page["data"]]
        assert page["last_id"] == names[-1]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert names == ["french", "p1", "p2", "p3", "sql"]
    assert client.get("/v1/adapters", params={"limit": "0"}).status_code == 400
    assert client.get("/v1/adapters", params={"limit": "1001"}).status_code == 400
    for name in ("p1", "p2", "p3"):
        server.store.delete("acme", name)


def test_the_bases_name_cannot_be_taken(tmp_path: Path) -> None:
    with live_server(tmp_path) as server, server.client("acme") as client:
        # The tests' base has a name no adapter can have; a plain one shows the rule.
        object.__setattr__(server.service.model, "name", "plain")
        files = random_adapter(server.base)
        reply = client.put("/v1/adapters/plain", files=form(files))
        assert reply.status_code == 409
        assert reply.json()["error"]["code"] == "name_taken"
        sent = client.put(f"/v1/adapters/plain/files/{CONFIG_FILE}", content=b"{}")
        assert sent.status_code == 409


@pytest.mark.parametrize("name", ["Upper", "-a", "a" * 65, "a%20b", BASE_NAME.replace("/", "_")])
def test_a_name_outside_the_rule_is_refused(
    server: LiveServer, client: httpx.Client, files: AdapterFiles, name: str
) -> None:
    reply = client.put(f"/v1/adapters/{name}", files=form(files))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_name"
    assert staged(server) == 0


def bent(files: AdapterFiles, **config: Any) -> dict[str, Any]:
    return form(AdapterFiles({**files.config, **config}, files.tensors))


def bad_uploads(files: AdapterFiles) -> dict[str, tuple[dict[str, Any], int]]:
    config, weights = (CONFIG_FILE, files.config_bytes), (WEIGHTS_FILE, files.weights_bytes)
    some = next(iter(files.tensors))
    missing = {name: each for name, each in files.tensors.items() if name != some}
    wrong = {**files.tensors, some: files.tensors[some][:, :5].contiguous()}
    nan = {**files.tensors, some: files.tensors[some] * float("nan")}
    extra = {**files.tensors, "base_model.model.lm_head.lora_A.weight": files.tensors[some].clone()}
    return {
        "no weights": ({CONFIG_FILE: config}, 422),
        "no config": ({WEIGHTS_FILE: weights}, 422),
        "pickle": ({CONFIG_FILE: config, "x": ("adapter_model.bin", b"\x80\x04")}, 422),
        "pickle inside": ({CONFIG_FILE: config, WEIGHTS_FILE: (WEIGHTS_FILE, b"\x80\x04.")}, 422),
        "zip": ({"x": ("adapter.zip", b"PK\x03\x04")}, 422),
        "zip inside": ({CONFIG_FILE: config, WEIGHTS_FILE: (WEIGHTS_FILE, b"PK\x03\x04" * 9)}, 422),
        "path": ({CONFIG_FILE: config, "x": ("../../x.safetensors", b"x")}, 422),
        "truncated": (
            {CONFIG_FILE: config, WEIGHTS_FILE: (WEIGHTS_FILE, files.weights_bytes[:-9])},
            422,
        ),
        "empty weights": ({CONFIG_FILE: config, WEIGHTS_FILE: (WEIGHTS_FILE, b"")}, 422),
        "config text": ({CONFIG_FILE: (CONFIG_FILE, b"{"), WEIGHTS_FILE: weights}, 422),
        "config large": (
            {CONFIG_FILE: (CONFIG_FILE, b" " * 300_000), WEIGHTS_FILE: weights},
            413,
        ),
        "rank": (bent(files, r=4096), 422),
        "wrong shape": (form(AdapterFiles(files.config, wrong)), 422),
        "missing B": (form(AdapterFiles(files.config, missing)), 422),
        "NaN": (form(AdapterFiles(files.config, nan)), 422),
        "extra tensor": (form(AdapterFiles(files.config, extra)), 422),
        "unmatched": (bent(files, target_modules=["q_proj", "v_proj", "no_such"]), 422),
    }


@pytest.mark.parametrize("name", list(bad_uploads(random_adapter(RandomBase.llama()))))
def test_a_bad_upload_changes_nothing(
    server: LiveServer, client: httpx.Client, files: AdapterFiles, name: str
) -> None:
    parts, status = bad_uploads(files)[name]
    before = client.get("/v1/adapters").json()
    for target in ("bad", "sql"):  # a new name, and one that is in use
        reply = client.put(f"/v1/adapters/{target}", files=parts)
        assert reply.status_code == status, reply.text
        error = reply.json()["error"]
        assert error["message"].endswith((".", ")"))
        assert str(server.settings.data_dir) not in reply.text
        assert len(reply.content) < 8192
    assert client.get("/v1/adapters").json() == before
    assert staged(server) == 0


def test_a_form_that_is_no_form_is_refused(server: LiveServer, client: httpx.Client) -> None:
    kind = "multipart/form-data; boundary=abc"
    for body in (b"", b"nonsense", b"--abc\r\n", b"--abc\r\nContent-Disposition: x\r\n\r\nhalf"):
        reply = client.put("/v1/adapters/x", content=body, headers={"content-type": kind})
        assert reply.status_code == 400, reply.text
        assert reply.json()["error"]["code"] == "invalid_multipart"
    for declared in ("application/json", "multipart/form-data", f"{kind}{'x' * 90}"):
        reply = client.put("/v1/adapters/x", content=b"{}", headers={"content-type": declared})
        assert reply.status_code == 415
    assert staged(server) == 0


def test_the_same_file_twice_is_refused(client: httpx.Client, files: AdapterFiles) -> None:
    parts = [("a", (CONFIG_FILE, files.config_bytes)), ("b", (CONFIG_FILE, files.config_bytes))]
    reply = client.put("/v1/adapters/x", files=parts)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "repeated_part"


@contextmanager
def slow_upload(server: LiveServer) -> Iterator[None]:
    """One of acme's that is on its way while the block runs."""
    started, release = threading.Event(), threading.Event()

    def slow_body() -> Iterator[bytes]:
        yield b"{"
        started.set()
        release.wait(60)
        yield b"}"

    def upload() -> None:
        with server.client("acme") as client:
            client.put(f"/v1/adapters/slow/files/{CONFIG_FILE}", content=slow_body())

    thread = threading.Thread(target=upload)
    thread.start()
    try:
        assert started.wait(60)
        yield
    finally:
        release.set()
        thread.join()


def is_refused(server: LiveServer, tenant: str) -> bool:
    """Whether that comes to be: what the slow one has sent may be on its way."""

    def attempt() -> bool:
        with server.client(tenant) as client:
            reply = client.put(f"/v1/adapters/x/files/{CONFIG_FILE}", content=b"{}")
            if reply.status_code == 503:
                assert reply.json()["error"]["code"] == "too_many_uploads"
                return True
            return not client.delete("/v1/adapters/x/files").is_success

    return eventually(attempt)


def test_uploads_are_counted(tmp_path: Path) -> None:
    with live_server(tmp_path, max_uploads=1) as server:
        with slow_upload(server):
            assert is_refused(server, "other")
        assert not is_refused(server, "other")


def test_a_tenant_that_sends_slowly_keeps_nobody_out(tmp_path: Path) -> None:
    with live_server(tmp_path, max_uploads=2) as server:
        with slow_upload(server):
            assert is_refused(server, "acme")
            with server.client("other") as client:
                reply = client.put(f"/v1/adapters/x/files/{CONFIG_FILE}", content=b"{}")
                assert reply.status_code == 201
        with server.client("acme") as client:
            reply = client.put(f"/v1/adapters/x/files/{CONFIG_FILE}", content=b"{}")
            assert reply.status_code == 201
