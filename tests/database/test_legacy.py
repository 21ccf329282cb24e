"""A data directory of Motet 0.1 is taken over whole, once, or not at all."""

import fcntl
import hashlib
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from motet.database import database_file, open_database
from motet.errors import InvalidSetting
from motet.settings import Settings
from motet_database import Database, Legacy
from motet_database.tables import adapters, blobs, keys, tenants, versions
from sqlalchemy import select

from tests.support.legacy_files import AdapterRow, write_registry, write_tenants
from tests.support.tenants import owner_of, tenancy_of

DIGEST = "a" * 64
KEY, ADMIN = "motet_" + "k" * 43, "motet_" + "a" * 43


def row(tenant: str, name: str, digest: str = DIGEST) -> AdapterRow:
    return (tenant, name, digest, "lora", "[4, 8]", '{"q_proj": 2}', 100, 942, 256, 5)


def hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a data directory as version 0.1 leaves it."""
    store = tmp_path / "adapters"
    store.mkdir()
    (store / "lock").touch()
    rows = [row("acme", "one"), row("acme", "two"), row("gone", "one", "b" * 64)]
    write_registry(store / "registry.sqlite3", rows)
    write_tenants(
        tmp_path / "tenants.sqlite",
        [("acme", 3, None), ("gone", 4, 9)],
        [(hashed(KEY), "k1", "acme", 3)],
        hashed(ADMIN),
    )
    return Settings(data_dir=tmp_path)


def test_everything_is_carried_over(settings: Settings) -> None:
    with closing(open_database(settings)) as database:
        known = tenancy_of(database)
        assert owner_of(known, KEY) == "acme"
        assert known.ring.is_admin(ADMIN)
        states = [(one.name, one.state, one.state_since) for one in known.tenants.list()]
        assert states == [("acme", "active", 3), ("gone", "suspended", 9)]
        with database.read() as db:
            found = db.execute(
                select(versions.c.tenant, versions.c.name, versions.c.digest, blobs.c.ranks)
                .join(blobs)
                .order_by(versions.c.tenant, versions.c.name)
            ).all()
            assert db.execute(select(adapters.c.current).distinct()).scalars().all() == [1]
            assert len(db.execute(select(blobs)).all()) == 2
    assert found == [
        ("acme", "one", DIGEST, [4, 8]),
        ("acme", "two", DIGEST, [4, 8]),
        ("gone", "one", "b" * 64, [4, 8]),
    ]


def test_the_old_files_are_kept_under_another_name(settings: Settings) -> None:
    open_database(settings).close()
    names = sorted(path.name for path in settings.data_dir.rglob("*") if path.is_file())
    assert names == [
        "lock",
        "motet.sqlite3",
        "registry.sqlite3.carried-over",
        "tenants.sqlite.carried-over",
    ]
    with closing(sqlite3.connect(settings.data_dir / "tenants.sqlite.carried-over")) as old:
        assert old.execute("SELECT count(*) FROM keys").fetchone() == (1,)


def test_what_was_revoked_since_does_not_come_back(settings: Settings) -> None:
    with closing(open_database(settings)) as database:
        tenancy_of(database).tenants.suspend("acme")
    with closing(open_database(settings)) as database:
        assert owner_of(tenancy_of(database), KEY) is None


def test_killed_between_the_commit_and_the_renaming(settings: Settings) -> None:
    pid = os.fork()
    if not pid:
        Legacy.set_aside = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        open_database(settings)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert (settings.data_dir / "tenants.sqlite").exists()
    with closing(open_database(settings)) as database, database.read() as db:
        assert len(db.execute(select(tenants)).all()) == 2
        assert len(db.execute(select(keys)).all()) == 2
    assert not (settings.data_dir / "tenants.sqlite").exists()


def test_a_file_that_cannot_be_read_leaves_everything_as_it_was(settings: Settings) -> None:
    old = settings.data_dir / "tenants.sqlite"
    whole = old.read_bytes()
    old.write_bytes(b"not a database" * 1000)
    with pytest.raises(InvalidSetting, match=r"tenants\.sqlite, written by"):
        open_database(settings)
    old.write_bytes(whole)
    with closing(open_database(settings)) as database:
        assert owner_of(tenancy_of(database), KEY) == "acme"
        with database.read() as db:
            assert len(db.execute(select(versions)).all()) == 3


def test_a_running_server_of_the_old_version_is_not_pulled_from_under(settings: Settings) -> None:
    with (settings.data_dir / "adapters" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InvalidSetting, match="Stop it first"):
            open_database(settings)
    open_database(settings).close()


def test_an_old_version_that_ran_again_is_noticed(settings: Settings) -> None:
    open_database(settings).close()
    write_tenants(settings.data_dir / "tenants.sqlite", [("late", 3, None)], [])
    with pytest.raises(InvalidSetting, match="Move it away"):
        open_database(settings)


def test_postgresql_does_not_take_over_files(settings: Settings) -> None:
    shared = Settings(data_dir=settings.data_dir, database_url="postgresql://x/y")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="Leave database_url unset"):
        open_database(shared)
    assert (settings.data_dir / "tenants.sqlite").exists()


def test_a_new_data_directory_has_nothing_to_carry_over(tmp_path: Path) -> None:
    open_database(Settings(data_dir=tmp_path / "new")).close()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["motet.sqlite3"]
    Database.at_path(database_file(tmp_path / "new")).close()
