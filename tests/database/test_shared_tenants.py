"""Tenants over one database that several servers share, SQLite and PostgreSQL alike."""

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from motet.errors import Forbidden, QuotaExceeded
from motet.settings import Settings
from motet.tenancy.tenancy import Tenancy
from motet.tenancy.usage import Amount
from motet_database import ChangeFeed, Database
from motet_database.tables import adapters, blobs, versions
from sqlalchemy import Connection, insert, select

from tests.support.live_server import eventually
from tests.support.tenants import owner_of, tenancy_of

Open = Callable[[], Database]

BLOB = {
    "state": "live",
    "state_since": 1,
    "kind": "lora",
    "ranks": [8],
    "matched": {},
    "warnings": [],
    "num_parameters": 1,
    "image_bytes": 1,
}


def publish(db: Connection, name: str, digest: str, source_bytes: int) -> None:
    """The rows of an adapter of "acme", as the store writes them."""
    db.execute(insert(blobs), {**BLOB, "digest": digest, "source_bytes": source_bytes})
    place = {"tenant": "acme", "name": name, "created": 1}
    db.execute(insert(adapters), {**place, "current": 1, "last_number": 1})
    db.execute(insert(versions), {**place, "number": 1, "digest": digest, "tags": []})


def test_what_one_server_changes_counts_on_another_soon(opened: Open) -> None:
    here = tenancy_of(opened())
    database = opened()
    with closing(ChangeFeed(database)) as feed:
        there = Tenancy(database, feed, Settings())
        feed.start()
        tenant, key = here.tenants.create("acme")
        assert eventually(lambda: owner_of(there, key) == "acme")
        here.quotas.set(tenant.id, {"requests_per_minute": 7})
        assert eventually(lambda: there.quota(tenant.id).requests_per_minute == 7)
        here.tenants.rename("acme", "emca")
        assert eventually(lambda: owner_of(there, key) == "emca")
        here.tenants.suspend("emca")
        assert eventually(lambda: owner_of(there, key) is None)
        here.tenants.resume("emca")
        assert eventually(lambda: owner_of(there, key) == "emca")
        admin = here.keys.new_admin_key()
        assert eventually(lambda: there.ring.is_admin(admin))
        here.tenants.delete("emca")
        assert eventually(lambda: owner_of(there, key) is None)
        assert there.ring.configured()


def test_usage_of_several_servers_adds_up(opened: Open) -> None:
    servers = [tenancy_of(opened()) for _ in range(3)]
    servers[0].tenants.create("acme")

    def work(tenancy: Tenancy) -> None:
        for _ in range(10):
            tenancy.usage.add("acme", "sql", Amount(1, 2, 3, 4))
            tenancy.try_flush()

    threads = [threading.Thread(target=work, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [row for page in servers[0].report.pages() for row in page]
    totals = [sum(row.requests for row in rows), sum(row.uploaded_bytes for row in rows)]
    assert totals == [30, 120]
    assert {(row.tenant, row.adapter) for row in rows} == {("acme", "sql")}


def test_room_is_decided_on_the_rows(opened: Open) -> None:
    database = opened()
    tenancy = tenancy_of(database)
    tenancy.tenants.create("acme")
    tenancy.quotas.set("acme", {"max_adapters": 2, "max_bytes": 100, "max_rank": 8})
    with database.write() as db:
        publish(db, "one", "a" * 64, 60)

    def ask(source_bytes: int, rank: int = 8, is_new_name: bool = True) -> None:
        with database.write() as db:
            tenancy.quotas.require_room(
                db, "acme", source_bytes=source_bytes, rank=rank, is_new_name=is_new_name
            )

    ask(40)
    for wrong, message in (((41,), "store 100 bytes and have 60"), ((1, 9), "rank is 9")):
        with pytest.raises(QuotaExceeded, match=message):
            ask(*wrong)
    with database.write() as db:
        publish(db, "two", "b" * 64, 40)
    with pytest.raises(QuotaExceeded, match="keep 2 adapters"):
        ask(0)
    ask(0, is_new_name=False)
    # An upload that was under way when its tenant was ended leaves nothing behind.
    tenancy.tenants.suspend("acme")
    with pytest.raises(Forbidden, match="suspended or deleted"):
        ask(0, is_new_name=False)
    tenancy.tenants.delete("acme")
    with pytest.raises(Forbidden, match="suspended or deleted"):
        ask(0)


def test_deletion_takes_rows_of_adapters_along_and_leaves_others(opened: Open) -> None:
    database = opened()
    tenancy = tenancy_of(database)
    tenancy.tenants.create("acme")
    with database.write() as db:
        publish(db, "one", "a" * 64, 60)
    tenancy.usage.add("acme", "one", Amount(1, 2, 3))
    tenancy.try_flush()
    tenancy.tenants.delete("acme")
    with database.read() as db:
        assert db.execute(select(versions)).all() == db.execute(select(adapters)).all() == []
        states = db.execute(select(blobs.c.state)).scalars().all()
    assert set(states) <= {"orphaned"}
    assert [row.tenant for page in tenancy.report.pages() for row in page] == ["acme"]
    actions = [change.action for change in tenancy.audit.read(tenant="acme")]
    assert actions[-2:] == ["adapter.deleted", "tenant.deleted"]
