"""Two servers over one PostgreSQL and one S3: what one is told, the other serves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest
import torch
from motet_adapters import (
    AdapterLoadFailed,
    AdapterQuarantined,
    AdapterStore,
    BlobsUnavailable,
    Limits,
    Origin,
    StoreFull,
    StoreUnusable,
)
from motet_adapters.source import Source
from motet_database import Database

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.crashing_store import BASE, new_files, old_files
from tests.support.live_server import LiveServer, eventually, live_server
from tests.support.s3 import s3_bucket
from tests.support.small_disk import leave, release, small_disk


@pytest.fixture(params=["file", "s3"])
def shared_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/shared"
        return
    with s3_bucket(monkeypatch) as url:
        yield f"{url}/some/prefix"


class Clock:
    now = time.time()

    def __call__(self) -> float:
        return self.now


def opened(root: Path, database: Database, url: str, clock: Clock | None = None) -> AdapterStore:
    return AdapterStore(
        root,
        BASE,
        dtype=torch.float32,
        limits=Limits(),
        host_bytes=1 << 20,
        database=database,
        origin=Origin(url),
        clock=clock or time.time,
    )


def objects(url: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return sorted(path.rpartition("/")[2] for path in fs.find(f"{root}/sources"))


def objects_of(url: str, digest: str, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return fs, f"{root}/sources/{digest}/{name}"


def test_another_server_fetches_checks_and_keeps_what_it_serves(
    tmp_path: Path, shared_url: str
) -> None:
    database = Database.at_path(tmp_path / "motet.sqlite3")
    first = opened(tmp_path / "a", database, shared_url)
    adapter = new_files().put(first)
    expected = first.image(adapter.digest).buffer.clone()
    second = opened(tmp_path / "b", database, shared_url)
    assert not list((tmp_path / "b" / "sources").iterdir())
    assert torch.equal(second.image(adapter.digest).buffer, expected)
    assert second._disk.source(adapter.digest).is_intact()
    # Rot of one server's copy is mended from the shared one.
    path = second._disk.source(adapter.digest).weights_path
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    second._checkup.verify(adapter.digest)
    assert second._disk.source(adapter.digest).is_intact()
    assert second.lease("acme", "one").adapter.digest == adapter.digest
    # Rot of the shared one is found by whoever has to fetch it.
    fs, remote = objects_of(shared_url, adapter.digest, WEIGHTS_FILE)
    fs.pipe_file(remote, b"rotten")
    third = opened(tmp_path / "c", database, shared_url)
    with pytest.raises(AdapterQuarantined):
        third.image(adapter.digest)
    new_files().put(third, name="again")
    assert torch.equal(third.image(adapter.digest).buffer, expected)
    assert list((tmp_path / "c" / "staging").iterdir()) == []
    for store in (first, second, third):
        store.close()
    database.close()


def test_what_no_version_names_is_swept_when_it_is_old(tmp_path: Path, shared_url: str) -> None:
    clock = Clock()
    database = Database.at_path(tmp_path / "motet.sqlite3")
    store = opened(tmp_path / "a", database, shared_url, clock)
    kept = old_files().put(store, name="kept")
    new_files().put(store, name="deleted")
    store.delete("acme", "deleted")
    store._shared.sweep()
    assert objects(shared_url) == [CONFIG_FILE, CONFIG_FILE, WEIGHTS_FILE, WEIGHTS_FILE]
    clock.now = time.time() + 601
    store._shared.sweep()
    assert objects(shared_url) == [CONFIG_FILE, WEIGHTS_FILE]
    other = opened(tmp_path / "b", database, shared_url)
    assert other.image(kept.digest).digest == kept.digest
    other.close()
    store.close()
    database.close()


def test_another_server_s_upload_is_not_swept_before_it_is_known_here(
    tmp_path: Path, shared_url: str
) -> None:
    clock = Clock()
    database = Database.at_path(tmp_path / "motet.sqlite3")
    first = opened(tmp_path / "a", database, shared_url, clock)
    second = opened(tmp_path / "b", database, shared_url)
    adapter = new_files().put(second)  # the first is not told: it has no feed here
    clock.now = time.time() + 601
    first._shared.sweep()
    assert objects(shared_url) == [CONFIG_FILE, WEIGHTS_FILE]
    third = opened(tmp_path / "c", database, shared_url)
    assert third.image(adapter.digest).digest == adapter.digest
    for store in (first, second, third):
        store.close()
    database.close()


def test_a_shared_store_of_another_database_is_refused(tmp_path: Path, shared_url: str) -> None:
    database = Database.at_path(tmp_path / "motet.sqlite3")
    store = opened(tmp_path / "a", database, shared_url)
    old_files().put(store)
    store.close()
    other = Database.at_path(tmp_path / "other.sqlite3")
    with pytest.raises(StoreUnusable, match="belong to another database"):
        opened(tmp_path / "b", other, shared_url)
    assert objects(shared_url) == [CONFIG_FILE, WEIGHTS_FILE]
    other.close()
    database.close()


def test_a_shared_store_that_is_away_refuses_uploads_and_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.at_path(tmp_path / "motet.sqlite3")
    store = opened(tmp_path / "a", database, f"file://{tmp_path}/shared")
    adapter = old_files().put(store)
    assert store._shared is not None

    def away(*_: object) -> None:
        raise ConnectionError("no route to host 10.0.0.1")

    monkeypatch.setattr(store._shared._origin, "_put", away)
    with pytest.raises(BlobsUnavailable) as refused:
        new_files().put(store)
    assert "10.0.0.1" not in refused.value.message
    assert store.get("acme", "one") == adapter
    assert store.image(adapter.digest).digest == adapter.digest
    store.close()
    database.close()


@pytest.mark.slow
def test_a_server_that_dies_while_it_shares_leaves_what_others_read_whole(tmp_path: Path) -> None:
    """In a process of its own, as this one's threads would not be there in one that is forked."""
    command = [sys.executable, "-m", "tests.support.crashing_store", "share", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["death"] for line in lines] == [-signal.SIGKILL] * (len(lines) - 1) + [0]
    assert len(lines) > 30
    assert all(line["intact"] for line in lines), lines
    clock = Clock()
    clock.now = time.time() + 601
    database = Database.at_path(tmp_path / "motet.sqlite3")
    last = opened(tmp_path / "last", database, f"file://{tmp_path}/shared", clock)
    assert last._shared is not None
    last._shared.sweep()
    assert list((tmp_path / "shared" / "incoming").iterdir()) == []
    (adapter,) = last.list("acme")
    assert last.image(adapter.digest).digest == adapter.digest
    last.close()
    database.close()


@pytest.mark.slow
def test_a_shared_directory_that_is_full_refuses_uploads_and_changes_nothing(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path, 1 << 20) as shared:
        database = Database.at_path(tmp_path / "motet.sqlite3")
        store = opened(tmp_path / "a", database, f"file://{shared}")
        old = old_files().put(store)
        for pages in (0, 1):
            leave(shared, pages)
            with pytest.raises(StoreFull):
                new_files().put(store)
            assert store.get("acme", "one") == old
            assert list((shared / "incoming").iterdir()) == []
        release(shared)
        new = new_files().put(store)
        assert Source(shared / "sources" / new.digest, new.digest).is_intact()
        store.close()
        database.close()


def test_without_a_place_for_the_files_another_server_s_are_not_called_damaged(
    tmp_path: Path, postgresql_url: str
) -> None:
    database = Database.at_url(postgresql_url)

    def opened_alone(root: Path) -> AdapterStore:
        return AdapterStore(
            root, BASE, dtype=torch.float32, limits=Limits(), host_bytes=1 << 20, database=database
        )

    first = opened_alone(tmp_path / "a")
    adapter = new_files().put(first)
    second = opened_alone(tmp_path / "b")
    with pytest.raises(AdapterLoadFailed, match="blob_url") as failed:
        second.image(adapter.digest)
    assert not isinstance(failed.value, AdapterQuarantined)
    assert first.image(adapter.digest).digest == adapter.digest
    first.close()
    second.close()
    first = opened_alone(tmp_path / "a")
    assert first.image(adapter.digest).digest == adapter.digest
    first.close()
    database.close()


@pytest.mark.slow
def test_two_servers_over_postgresql_and_s3(
    tmp_path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_bucket(monkeypatch) as url, ExitStack() as stack:
        shared = {"database_url": postgresql_url, "blob_url": f"{url}/motet"}
        first = stack.enter_context(live_server(tmp_path / "a", **shared))
        second = stack.enter_context(live_server(tmp_path / "b", tenants=(), **shared))
        key = first.keys["acme"]
        for seed in (1, 2):  # a new name, then a new version of it
            files = random_adapter(first.base, seed=seed)
            form = {
                "a": (CONFIG_FILE, files.config_bytes),
                "b": (WEIGHTS_FILE, files.weights_bytes),
            }
            with first.client(key=key) as client:
                uploaded = client.put("/v1/adapters/mine", files=form)
            assert uploaded.status_code == 201, uploaded.text
            digest = uploaded.json()["digest"]
            assert eventually(lambda: served(second, key) == digest)  # noqa: B023
            # The scripted engine loads nothing; this is what a real one's arena asks for.
            assert second.store.image(digest).digest == digest
        with second.client(key=key) as client:
            assert client.delete("/v1/adapters/mine").status_code == 200
        assert eventually(lambda: served(first, key) is None)
        # The name is gone before the files are: they wait for the last user of the version.
        sources = tmp_path / "a" / "adapters" / "sources"
        assert eventually(lambda: not list(sources.iterdir()))


def served(server: LiveServer, key: str) -> object:
    """The digest that answers a completion by the adapter's name; None: there is none."""
    body = {"model": "mine", "prompt": "x", "max_tokens": 2}
    with server.client(key=key) as client:
        if client.post("/v1/completions", json=body).status_code != 200:
            return None
    return server.engine.seen[-1].adapter.digest  # type: ignore[union-attr]
