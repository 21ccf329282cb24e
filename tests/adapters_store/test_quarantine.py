"""One flipped bit: that adapter is refused until it is uploaded again, and all else serves."""

from collections.abc import Callable
from pathlib import Path

import pytest
from motet_adapters import Adapter, AdapterNotFound, AdapterQuarantined, AdapterStore
from motet_adapters.blob_states import BlobStates
from motet_adapters.scrub import Scrub
from motet_database import Database, DatabaseFull
from motet_database.audit import changes_after
from motet_database.tables import blobs
from sqlalchemy import select, update

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from tests.support.crashing_store import new_files, old_files, opened


def files_of(root: Path, adapter: Adapter) -> tuple[Path, Path]:
    directory = root / "sources" / adapter.digest
    return directory / CONFIG_FILE, directory / WEIGHTS_FILE


def flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def audited(root: Path) -> list[tuple[str, str]]:
    database = Database.at_path(root / "motet.sqlite3")
    with database.read() as connection:
        found = [(change.action, change.subject) for change in changes_after(connection, 0)]
    database.close()
    return [(action, subject) for action, subject in found if action.startswith("blob.")]


def scrubbed(store: AdapterStore) -> None:
    Scrub(store._checkup, 1 << 40).run_once()


def is_refused(store: AdapterStore, adapter: Adapter) -> bool:
    with pytest.raises(AdapterQuarantined) as leasing:
        store.lease(adapter.tenant, adapter.name)
    with pytest.raises(AdapterQuarantined, match="Upload it again") as loading:
        store.image(adapter.digest)
    return leasing.value.digest == loading.value.digest == adapter.digest


def serves(store: AdapterStore, adapter: Adapter) -> bool:
    with store.lease(adapter.tenant, adapter.name) as lease:
        return store.image(lease.adapter.digest).digest == adapter.digest


def test_any_flipped_bit_is_found_before_it_is_served(tmp_path: Path) -> None:
    store = opened(tmp_path)
    damaged = new_files().put(store, name="damaged")
    sound = old_files().put(store, "other", "sound")
    store.close()
    cases = [
        (path, at)
        for path in files_of(tmp_path, damaged)
        for at in range(0, path.stat().st_size, path.stat().st_size // 9)
    ]
    assert len(cases) >= 18
    for number, (path, at) in enumerate(cases):
        flip(path, at, number % 8)
        store = opened(tmp_path)
        with pytest.raises(AdapterQuarantined):
            store.image(damaged.digest)
        assert is_refused(store, damaged)
        assert serves(store, sound)
        new_files().put(store, name="damaged")
        assert serves(store, damaged)
        store.close()
    changes = audited(tmp_path)
    pair = [("blob.quarantined", damaged.digest), ("blob.restored", damaged.digest)]
    assert changes == pair * len(cases)


@pytest.mark.parametrize("which", [0, 1])
def test_the_scrub_finds_rot_in_what_is_being_served(tmp_path: Path, which: int) -> None:
    store = opened(tmp_path)
    damaged, sound = new_files().put(store), old_files().put(store, "other", "sound")
    assert serves(store, damaged)
    scrubbed(store)
    assert serves(store, damaged)
    forget_checks(tmp_path)
    flip(files_of(tmp_path, damaged)[which], 40)
    assert serves(store, damaged)  # from memory: nothing of it is wrong yet
    with store.lease("acme", "one") as running:
        scrubbed(store)
        assert is_refused(store, damaged)
        assert running.adapter == damaged
    assert serves(store, sound)
    store.close()
    store = opened(tmp_path)
    assert is_refused(store, damaged)
    assert store.get("acme", "one") == damaged  # described, listed, and deleted as ever
    store.delete("acme", "one")
    with pytest.raises(AdapterNotFound):
        store.lease("acme", "one")
    store.close()
    assert sorted(path.name for path in (tmp_path / "sources").iterdir()) == [sound.digest]


def forget_checks(root: Path) -> None:
    database = Database.at_path(root / "motet.sqlite3")
    with database.write() as connection:
        connection.execute(update(blobs).values(checked=None))
    database.close()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("which", [0, 1])
def test_a_wrong_size_is_found_at_the_start_without_reading(
    tmp_path: Path, damage: Callable[[Path], None], which: int
) -> None:
    store = opened(tmp_path)
    damaged, sound = new_files().put(store), old_files().put(store, "other", "sound")
    store.close()
    damage(files_of(tmp_path, damaged)[which])
    store = opened(tmp_path)
    assert audited(tmp_path) == [("blob.quarantined", damaged.digest)]
    assert is_refused(store, damaged)
    assert serves(store, sound)
    # The same bytes, by whomever they are uploaded.
    new_files().put(store, "third", "again")
    assert serves(store, damaged)
    store.close()


def test_the_scrub_notes_what_it_read_and_reads_the_longest_unread_first(tmp_path: Path) -> None:
    store = opened(tmp_path)
    adapters = [old_files().put(store), new_files().put(store, name="two")]
    database = store._registry._database
    with database.write() as connection:
        of_old_format = {"weights_sha256": None, "weights_bytes": None}
        connection.execute(update(blobs).values(of_old_format))
    states = BlobStates(database)
    states.note_checked(adapters[0].digest, "0" * 64, 1)
    assert [blob.digest for blob in states.all()] == [adapters[1].digest, adapters[0].digest]
    scrubbed(store)
    with database.read() as connection:
        rows = {row.digest: row for row in connection.execute(select(blobs))}
    read, left = (rows[adapter.digest] for adapter in reversed(adapters))
    assert (read.weights_sha256, read.weights_bytes) == (
        adapters[1].weights_sha256,
        adapters[1].weights_bytes,
    )
    assert read.checked is not None
    assert left.weights_sha256 == "0" * 64  # it was not due
    store.close()


def test_the_scrub_keeps_to_its_rate(tmp_path: Path) -> None:
    store = opened(tmp_path)
    adapter = new_files().put(store)
    scrub = Scrub(store._checkup, 1000)
    waits: list[float] = []
    scrub._ended.wait = lambda timeout=None: waits.append(timeout) or False  # type: ignore[assignment,func-returns-value]
    scrub.run_once()
    assert adapter.weights_bytes is not None
    assert sum(waits) >= adapter.weights_bytes / 1000
    store.close()


def test_a_store_ends_while_it_scrubs(tmp_path: Path) -> None:
    store = opened(tmp_path)
    new_files().put(store)
    store.start_upkeep(1)  # a day for these bytes
    store.close()


def test_a_file_that_was_replaced_while_it_was_read_is_read_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    adapter = new_files().put(store)
    flip(files_of(tmp_path, adapter)[1], -9)

    def mend(_num_bytes: int) -> None:
        new_files().put(store, name="mended")

    store._checkup.verify(adapter.digest, mend)
    assert serves(store, adapter)
    assert audited(tmp_path) == []
    store.close()


def test_rot_that_cannot_be_recorded_is_refused_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    adapter = new_files().put(store)
    flip(files_of(tmp_path, adapter)[1], -9)

    def full(*_: object) -> None:
        raise DatabaseFull

    monkeypatch.setattr(BlobStates, "quarantine", full)
    scrubbed(store)
    assert is_refused(store, adapter)
    store.close()
