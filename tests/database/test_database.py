"""One schema and one way to write, on SQLite and on PostgreSQL."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from motet_database import Database, DatabaseFull, DatabaseUnavailable, DatabaseUnusable, record
from motet_database.audit import changes_after, last_id
from motet_database.migration import HEAD
from motet_database.tables import audit, metadata, tenants
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

Opened = Callable[[], Database]


def tenant(name: str, state: str = "active") -> dict[str, object]:
    return {"id": name, "name": name, "state": state, "state_since": 1, "created": 1}


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(tenants.c.name).order_by("name")).scalars())


def test_the_steps_make_what_the_tables_say(opened: Opened) -> None:
    with opened().read() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == HEAD
        assert compare_metadata(context, metadata) == []


def test_it_is_opened_again_and_is_the_same(opened: Opened) -> None:
    first = opened()
    with first.write() as connection:
        connection.execute(insert(tenants), tenant("acme"))
    second = opened()
    assert first.id == second.id
    assert len(first.id) == 32
    assert names(second) == ["acme"]


def test_a_block_that_raises_changes_nothing(opened: Opened) -> None:
    database = opened()

    def write() -> None:
        with database.write() as connection:
            connection.execute(insert(tenants), tenant("acme"))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert names(database) == []


def test_writers_write_one_after_another(opened: Opened) -> None:
    """Several processes' worth of them: none is refused, and ids come in the order of commits."""
    databases = [opened(), opened()]
    seen: list[int] = []
    errors: list[BaseException] = []

    def work(database: Database) -> None:
        try:
            for _ in range(20):
                with database.write() as connection:
                    before = last_id(connection)
                    record(connection, actor="test", action="thing.done")
                    seen.append(last_id(connection) - before)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(databases[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    # Between a writer's own look and its row nobody else's row came in.
    assert seen == [1] * 80
    with databases[0].read() as connection:
        ids = [change.id for change in changes_after(connection, 0)]
    assert len(ids) == 80
    assert ids == sorted(ids)


def test_a_reader_does_not_wait_for_a_writer(opened: Opened) -> None:
    writer, reader = opened(), opened()
    with writer.write() as connection:
        connection.execute(insert(tenants), tenant("acme"))
        assert names(reader) == []
    assert names(reader) == ["acme"]


def test_the_audit_log_is_only_added_to(opened: Opened) -> None:
    database = opened()
    with database.write() as connection:
        record(connection, actor="test", action="thing.done", detail={"a": [1]})
    for statement in (delete(audit), update(audit).values(actor="nobody")):
        with pytest.raises(DBAPIError, match="append-only"), database.write() as connection:
            connection.execute(statement)
    with database.read() as connection:
        (change,) = changes_after(connection, 0)
    assert (change.actor, change.action, change.detail) == ("test", "thing.done", {"a": [1]})


def test_a_deleted_tenants_name_is_free_again(opened: Opened) -> None:
    database = opened()
    with database.write() as connection:
        connection.execute(insert(tenants), tenant("acme", "deleted"))
        connection.execute(insert(tenants), tenant("acme", "deleted") | {"id": "second"})
        connection.execute(insert(tenants), tenant("acme") | {"id": "third"})
    with pytest.raises(DBAPIError), database.write() as connection:
        connection.execute(insert(tenants), tenant("acme", "suspended") | {"id": "fourth"})


def test_a_schema_of_a_later_version_is_refused(opened: Opened) -> None:
    with opened().write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnusable, match=f"format 9999.*reads {HEAD}"):
        opened()


def test_many_processes_may_open_a_new_one_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from motet_database import Database;"
        "print(Database.at_path(Path(sys.argv[1])).id)"
    )
    path = str(tmp_path / "motet.sqlite3")
    started = [
        subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ids = {process.communicate(timeout=60)[0].strip() for process in started}
    assert len(ids) == 1
    assert ids != {""}


def test_another_process_that_keeps_it_locked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motet_database.sqlite._BUSY_TIMEOUT_MS", 50)
    path = tmp_path / "motet.sqlite3"
    database = Database.at_path(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable), database.write():
        pass
    assert names(database) == []
    other.close()
    with database.write() as connection:
        connection.execute(insert(tenants), tenant("acme"))
    database.close()


def test_a_full_disk_is_said_and_changes_nothing(tmp_path: Path) -> None:
    database = Database.at_path(tmp_path / "motet.sqlite3")

    def write() -> None:
        with database.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            for number in range(10_000):
                connection.execute(insert(tenants), tenant(f"tenant-{number}"))

    with pytest.raises(DatabaseFull):
        write()
    assert names(database) == []
    database.close()


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "sqlite:///x", "not a url", "", "postgresql+asyncpg://x/y"]
)
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(DatabaseUnusable, match="must begin with postgresql://"):
        Database.at_url(url)


def test_a_postgresql_that_is_not_there_is_said_without_its_address() -> None:
    with pytest.raises(DatabaseUnusable, match="can't be reached") as caught:
        Database.at_url("postgresql://someone:secret@127.0.0.1:1/x")
    assert "127.0.0.1" not in caught.value.message
    assert "secret" not in caught.value.message


def test_a_lost_connection_is_said_and_the_next_one_works(postgresql_url: str) -> None:
    database, other = Database.at_url(postgresql_url), Database.at_url(postgresql_url)
    kill = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    )

    def write() -> None:
        with database.write() as connection:
            connection.execute(insert(tenants), tenant("acme"))
            with other.read() as killer:
                killer.execute(kill)
            connection.execute(insert(tenants), tenant("other"))

    with pytest.raises(DatabaseUnavailable):
        write()
    assert names(database) == []
    database.close()
    other.close()
