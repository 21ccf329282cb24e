"""What is published survives; what was not finished leaves no trace; rot is noticed."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from motet_adapters import (
    AdapterError,
    AdapterLoadFailed,
    AdapterStore,
    Limits,
    StoreFull,
    StoreUnusable,
)
from motet_adapters.source import Source
from sqlalchemy import event

from tests.support.adapter_files import WEIGHTS_FILE, put_bytes, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.crashing_store import BASE, counting, new_files, old_files, opened
from tests.support.disk_state import disk_state
from tests.support.legacy_files import write_registry

REPOSITORY = Path(__file__).parents[2]


def script(verb: str, root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.crashing_store", verb, str(root)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_right_after_put(tmp_path: Path) -> None:
    process = script("put", tmp_path)
    assert process.stdout is not None
    digest = process.stdout.readline().strip()
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    process.stdout.close()
    store = opened(tmp_path)
    with store.lease("acme", "one") as lease:
        assert lease.adapter.digest == digest
        assert store.image(digest).digest == digest
    store.close()


@pytest.mark.slow
def test_killed_before_every_file_operation(tmp_path: Path) -> None:
    """Replace an adapter, then delete it, dying before each operation in turn."""
    process = script("die", tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.splitlines()]
    old, new = digests(tmp_path / "digests")
    phases = []
    for line in lines:
        found = line["found"]
        assert found["digests"] in ([old], [new], [])
        # Exactly what is named is on disk, and it was served.
        assert found["sources"] == found["images"] == found["digests"]
        assert found["staging"] == []
        assert len(found["sizes"]) == len(found["digests"])
        phases.append([[old], [new], []].index(found["digests"]))
    assert [line["death"] for line in lines[:-1]] == [-signal.SIGKILL] * (len(lines) - 1)
    assert lines[-1]["death"] == 0
    assert phases == sorted(phases)
    assert {0, 1, 2} <= set(phases)
    assert len(lines) > 15


@pytest.mark.slow
def test_killed_twenty_times_around_each_of_twelve_points(tmp_path: Path) -> None:
    """Replace an adapter, then delete it, killed from outside at no particular instruction."""
    process = script("often", tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.splitlines()]
    old, new = digests(tmp_path / "digests")
    # What may be found, by what had been acknowledged: one step further at most.
    possible = {"": [[old], [new]], "p": [[new], []], "pd": [[]]}
    ends = set()
    for line in lines:
        found, told = line["found"], line["told"].replace("!", "")
        assert found["digests"] in possible[told], line
        assert found["sources"] == found["images"] == found["digests"], line
        assert found["staging"] == []
        assert len(found["sizes"]) == len(found["digests"])
        ends.add((told, *found["digests"]))
    assert len(lines) == 240
    assert len({line["point"] for line in lines}) == 12
    assert {("", old), ("p", new)} <= ends


def digests(root: Path) -> tuple[str, str]:
    store = opened(root)
    old, new = old_files().put(store), new_files().put(store)
    store.close()
    return old.digest, new.digest


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_at_any_moment(tmp_path: Path, number: int) -> None:
    store = opened(tmp_path)
    old = old_files().put(store)
    before = disk_state(tmp_path)
    failing = 1
    while filled_up_at(failing, number, store):
        assert disk_state(tmp_path) == before
        assert store.get("acme", "one") == old
        failing += 1
    assert failing > 10
    assert store.get("acme", "one").kind == "dora"
    store.close()


def filled_up_at(failing: int, number: int, store: AdapterStore) -> bool:
    """Upload on a disk that has no room from that file operation on; whether it was refused."""

    def fail(count: int, needs_room: bool) -> None:
        if count >= failing and needs_room:
            raise OSError(number, "No space left on device")

    files = new_files()
    config, weights = files.config_bytes, files.weights_bytes
    undo = counting(fail)
    try:
        put_bytes(store, config, weights)
    except StoreFull:
        return True
    finally:
        undo()
    return False


def test_a_registry_that_cannot_grow(tmp_path: Path) -> None:
    store = opened(tmp_path)
    old_files().put(store)
    engine = store._registry._database._engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    engine.dispose()

    @event.listens_for(engine, "connect")
    def limit(connection: Any, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    num_published = 1
    while True:
        before = disk_state(tmp_path)
        try:
            new_files().put(store, name=f"name-{num_published}-{'x' * 50}")
        except StoreFull:
            break
        num_published += 1
    assert disk_state(tmp_path) == before
    assert len(store.list("acme")) == num_published
    event.remove(engine, "connect", limit)
    engine.dispose()
    new_files().put(store, name="fits")
    store.close()


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept = old_files().put(store)
    store.close()
    before = disk_state(tmp_path)
    (tmp_path / "staging" / "abc" / "source").mkdir(parents=True)
    (tmp_path / "staging" / "abc" / "source" / WEIGHTS_FILE).write_bytes(b"half")
    (tmp_path / "staging" / "file").write_bytes(b"x")
    shutil.copytree(tmp_path / "sources" / kept.digest, tmp_path / "sources" / ("0" * 64))
    (tmp_path / "images" / f"{'0' * 64}.0123456789abcdef").write_bytes(b"x")
    (tmp_path / "images" / f"{kept.digest}.0123456789abcdef").write_bytes(b"another base")
    store = opened(tmp_path)
    assert disk_state(tmp_path) == before
    assert store.image(kept.digest).digest == kept.digest
    store.close()


def image_path(root: Path) -> Path:
    (path,) = (root / "images").iterdir()
    return path


def test_a_rotten_image_is_remade(tmp_path: Path) -> None:
    store = opened(tmp_path)
    digest = new_files().put(store).digest
    whole = image_path(tmp_path).read_bytes()
    expected = store.image(digest).buffer.clone()
    store.close()
    positions = [*range(0, 60, 7), len(whole) // 2, len(whole) - 1, 200, 400]
    damaged = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in positions]
    damaged += [b"", whole[:20], whole[:-1], whole[: len(whole) // 2], bytes(len(whole))]
    for content in damaged:
        image_path(tmp_path).write_bytes(content)
        store = opened(tmp_path)
        assert torch.equal(store.image(digest).buffer, expected)
        assert image_path(tmp_path).read_bytes() == whole
        store.close()


def test_a_missing_image_is_remade(tmp_path: Path) -> None:
    store = opened(tmp_path)
    digest = new_files().put(store).digest
    image_path(tmp_path).unlink()
    assert store.image(digest).digest == digest
    assert image_path(tmp_path).stat().st_size > 0
    store.close()


def test_an_image_that_cannot_be_kept_still_serves(tmp_path: Path) -> None:
    store = opened(tmp_path)
    digest = new_files().put(store).digest
    image_path(tmp_path).unlink()

    def fail(count: int, needs_room: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    undo = counting(fail)
    try:
        assert store.image(digest).digest == digest
    finally:
        undo()
    store.close()


@pytest.mark.parametrize("damage", ["flip", "remove", "truncate"])
def test_a_damaged_source_is_noticed_and_repaired_by_uploading_again(
    tmp_path: Path, damage: str
) -> None:
    store = opened(tmp_path)
    adapter = new_files().put(store)
    other = old_files().put(store, name="other")
    store._disk.image_path(adapter.digest).unlink()
    weights = tmp_path / "sources" / adapter.digest / WEIGHTS_FILE
    content = bytearray(weights.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "truncate":
        weights.write_bytes(content[:-1])
    else:
        weights.unlink()
    with pytest.raises(AdapterLoadFailed, match="Upload it again") as caught:
        store.image(adapter.digest)
    assert caught.value.digest == adapter.digest
    assert store.image(other.digest).digest == other.digest
    assert new_files().put(store) == adapter
    store._disk.image_path(adapter.digest).unlink()
    assert store.image(adapter.digest).digest == adapter.digest
    assert not list((tmp_path / "staging").iterdir())
    store.close()


def test_the_same_bytes_at_the_same_time_do_not_replace_what_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames of a replacement a kill would leave an adapter without its files."""
    store = opened(tmp_path)
    is_intact = Source.is_intact
    inodes: list[int] = []

    def overtaken(source: Source) -> bool:
        was_intact = is_intact(source)
        monkeypatch.undo()
        inodes.append(weights_inode(tmp_path, old_files().put(store, "other").digest))
        return was_intact

    monkeypatch.setattr(Source, "is_intact", overtaken)
    digest = old_files().put(store).digest
    assert [weights_inode(tmp_path, digest)] == inodes
    store.close()


def weights_inode(root: Path, digest: str) -> int:
    return (root / "sources" / digest / WEIGHTS_FILE).stat().st_ino


def test_a_damaged_registry_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    old_files().put(store)
    store.close()
    path = tmp_path / "motet.sqlite3"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    with pytest.raises(StoreUnusable, match="damaged"):
        opened(tmp_path)
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreUnusable, match="damaged"):
        opened(tmp_path)
    # Nothing was swept on the word of a registry that can't be trusted.
    assert list((tmp_path / "sources").iterdir())
    path.write_bytes(whole)
    opened(tmp_path).close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("digest", "../../../etc"), ("digest", "A" * 64), ("ranks", "[4"), ("matched", "x")],
)
def test_a_row_nobody_wrote_is_refused(tmp_path: Path, column: str, value: str) -> None:
    store = opened(tmp_path)
    old_files().put(store)
    store.close()
    connection = sqlite3.connect(tmp_path / "motet.sqlite3")
    connection.execute(f"UPDATE blobs SET {column} = ?", (value,))
    connection.execute("UPDATE versions SET digest = (SELECT digest FROM blobs)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnusable, match="damaged"):
        opened(tmp_path)


def test_a_registry_of_another_format_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "motet.sqlite3")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnusable, match="format 9999"):
        opened(tmp_path)


def test_a_registry_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "motet.sqlite3").mkdir()
    with pytest.raises(StoreUnusable, match="can't be opened") as caught:
        opened(tmp_path)
    assert str(tmp_path) not in caught.value.message


def test_a_database_that_names_nothing_here_does_not_sweep_everything(tmp_path: Path) -> None:
    store = opened(tmp_path)
    digest = old_files().put(store).digest
    store.close()
    aside = tmp_path.parent / "aside"
    (tmp_path / "motet.sqlite3").rename(aside)
    for remembered in (True, False):
        if not remembered:
            (tmp_path / "database-id").unlink()
        with pytest.raises(StoreUnusable, match="belong to another database"):
            opened(tmp_path)
        assert [path.name for path in (tmp_path / "sources").iterdir()] == [digest]
        for left in tmp_path.glob("motet.sqlite3*"):
            left.unlink()
    aside.rename(tmp_path / "motet.sqlite3")
    store = opened(tmp_path)
    assert store.image(digest).digest == digest
    store.close()


def test_a_store_of_version_0_1_is_carried_over(tmp_path: Path) -> None:
    store = opened(tmp_path)
    adapter = old_files().put(store)
    store.close()
    for left in (*tmp_path.glob("motet.sqlite3*"), tmp_path / "database-id"):
        left.unlink()
    facts = (adapter.kind, json.dumps(adapter.ranks), json.dumps(dict(adapter.matched)))
    numbers = (adapter.num_parameters, adapter.source_bytes, adapter.image_bytes, adapter.created)
    row = ("acme", "one", adapter.digest, *facts, *numbers)
    write_registry(tmp_path / "registry.sqlite3", [row])
    store = opened(tmp_path)
    # That version kept no digest of the weights alone.
    assert store.list("acme") == [replace(adapter, weights_sha256=None, weights_bytes=None)]
    assert store.image(adapter.digest).digest == adapter.digest
    store.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(StoreUnusable, match="Another process"):
        opened(tmp_path)
    store.close()
    opened(tmp_path).close()


def test_another_base_makes_its_own_image(tmp_path: Path) -> None:
    store = opened(tmp_path)
    adapter = new_files().put(store)
    first = store.image(adapter.digest)
    store.close()
    other = RandomBase.llama(layers=1, seed=5)
    store = AdapterStore(tmp_path, other, dtype=torch.float16, limits=Limits(), host_bytes=1 << 20)
    second = store.image(adapter.digest)
    assert second.dtype == torch.float16
    module = "model.layers.0.self_attn.q_proj"
    gains = [image.views(image.buffer)[module].tensors["gain"] for image in (first, second)]
    assert not torch.allclose(gains[0], gains[1].float(), rtol=1e-2)
    assert store.get("acme", "one").image_bytes == second.num_bytes < first.num_bytes
    store.close()
    store = AdapterStore(tmp_path, other, dtype=torch.float16, limits=Limits(), host_bytes=1 << 20)
    assert store.get("acme", "one").image_bytes == second.num_bytes
    store.close()


def test_an_adapter_that_does_not_fit_the_new_base(tmp_path: Path) -> None:
    store = opened(tmp_path)
    adapter = old_files().put(store)
    store.close()
    other = RandomBase.llama(layers=1, hidden=48)
    store = AdapterStore(tmp_path, other, dtype=torch.float32, limits=Limits(), host_bytes=1 << 20)
    with pytest.raises(AdapterLoadFailed, match="does not fit the base now served"):
        store.image(adapter.digest)
    assert store.get("acme", "one") == adapter
    store.close()
    store = opened(tmp_path)
    assert store.image(adapter.digest).digest == adapter.digest
    store.close()


def test_an_upload_made_of_nothing_but_errors_leaves_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = disk_state(tmp_path)
    files = random_adapter(BASE, config={"use_qalora": True})
    with pytest.raises(AdapterError):
        files.put(store)
    assert disk_state(tmp_path) == before
    store.close()
