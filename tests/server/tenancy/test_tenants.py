import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from motet.errors import RequestRefused, TenantExists, TenantNotFound
from motet.tenancy.tenancy import Tenancy

from tests.support.tenants import opened_tenancy, owner_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "motet.sqlite3"


@pytest.fixture
def tenancy(path: Path) -> Iterator[Tenancy]:
    with opened_tenancy(path) as opened:
        yield opened


def test_a_created_tenant_is_known_by_its_key(tenancy: Tenancy) -> None:
    tenant, key = tenancy.tenants.create("acme")
    assert key.startswith("motet_")
    assert len(key) == len("motet_") + 43  # 256 bits in base64
    assert owner_of(tenancy, key) == "acme"
    assert tenant.state == "active"
    assert tenancy.tenants.list() == [tenant]


def test_keys_differ_and_are_not_in_the_file(tenancy: Tenancy, path: Path) -> None:
    keys = {tenancy.tenants.create(f"tenant-{i}")[1] for i in range(20)}
    keys.add(tenancy.keys.new_admin_key())
    assert len(keys) == 21
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not any(key.removeprefix("motet_").encode() in stored for key in keys)


@pytest.mark.parametrize("key", ["", "motet_", "motet_" + "A" * 43, "x" * 100_000, "é\ud800", "\0"])
def test_an_unknown_key_is_nobody(tenancy: Tenancy, key: str) -> None:
    tenancy.tenants.create("acme")
    tenancy.keys.new_admin_key()
    assert owner_of(tenancy, key) is None
    assert not tenancy.ring.is_admin(key)


@pytest.mark.parametrize(
    "name", ["", "Acme", "-a", ".a", "a/b", "../a", "a" * 65, "a b", "a\n", "é", "\ud800"]
)
def test_a_name_outside_the_rule_is_refused(tenancy: Tenancy, name: str) -> None:
    with pytest.raises(RequestRefused, match="not a valid tenant name"):
        tenancy.tenants.create(name)
    assert not tenancy.tenants.configured()
    assert not tenancy.ring.configured()


def test_a_name_is_given_once(tenancy: Tenancy) -> None:
    _, key = tenancy.tenants.create("acme")
    with pytest.raises(TenantExists, match="already"):
        tenancy.tenants.create("acme")
    assert owner_of(tenancy, key) == "acme"


def test_a_suspended_tenant_keeps_everything_and_may_do_nothing(tenancy: Tenancy) -> None:
    _, key = tenancy.tenants.create("acme")
    assert tenancy.tenants.suspend("acme").state == "suspended"
    assert owner_of(tenancy, key) is None
    with pytest.raises(TenantExists, match="suspended"):
        tenancy.tenants.create("acme")
    assert tenancy.tenants.resume("acme").state == "active"
    assert owner_of(tenancy, key) == "acme"


def test_a_renamed_tenant_is_the_same_one(tenancy: Tenancy) -> None:
    before, key = tenancy.tenants.create("acme")
    tenancy.tenants.create("other")
    after = tenancy.tenants.rename("acme", "emca")
    assert (after.id, after.name, after.key_ids) == (before.id, "emca", before.key_ids)
    assert owner_of(tenancy, key) == "emca"
    with pytest.raises(TenantExists):
        tenancy.tenants.rename("emca", "other")
    with pytest.raises(TenantNotFound):
        tenancy.tenants.get("acme")
    # The old name is free, but not what was stored under it.
    fresh, _ = tenancy.tenants.create("acme")
    assert fresh.id != before.id


def test_a_deleted_tenant_leaves_its_name_and_nothing_else(tenancy: Tenancy) -> None:
    before, key = tenancy.tenants.create("acme")
    tenancy.quotas.set(before.id, {"max_adapters": 3})
    assert tenancy.tenants.delete("acme") == before.id
    assert owner_of(tenancy, key) is None
    assert tenancy.tenants.list() == []
    assert tenancy.keys.list(before.id) == []
    assert tenancy.ring.quota(before.id).max_adapters is None
    fresh, other = tenancy.tenants.create("acme")
    assert fresh.id != before.id
    assert owner_of(tenancy, other) == "acme"
    assert tenancy.tenants.configured(), "deleting the last tenant must not open the server"
    with pytest.raises(TenantNotFound):
        tenancy.quotas.set(before.id, {"max_adapters": 3})


def test_ending_the_last_tenant_does_not_open_the_server(tenancy: Tenancy) -> None:
    assert not tenancy.ring.configured()
    tenancy.tenants.create("acme")
    tenancy.tenants.suspend("acme")
    assert tenancy.ring.configured()
    tenancy.tenants.delete("acme")
    assert tenancy.ring.configured()


def test_rotation_of_all_ends_every_older_key(tenancy: Tenancy) -> None:
    tenant, first = tenancy.tenants.create("acme")
    _, second = tenancy.keys.create(tenant.id)
    third = tenancy.tenants.rotate("acme")
    assert [owner_of(tenancy, key) for key in (first, second, third)] == [None, None, "acme"]
    assert len(tenancy.tenants.get("acme").key_ids) == 1


@pytest.mark.parametrize("method", ["get", "rotate", "suspend", "resume", "delete"])
def test_a_missing_tenant_is_said_to_be_missing(tenancy: Tenancy, method: str) -> None:
    with pytest.raises(TenantNotFound, match="no tenant named"):
        getattr(tenancy.tenants, method)("nobody")


def test_the_admin_key_is_one_and_is_no_tenant_key(tenancy: Tenancy) -> None:
    assert not tenancy.ring.has_admin_key()
    first, second = tenancy.keys.new_admin_key(), tenancy.keys.new_admin_key()
    assert tenancy.ring.has_admin_key()
    assert not tenancy.ring.is_admin(first)
    assert tenancy.ring.is_admin(second)
    assert owner_of(tenancy, second) is None
    assert not tenancy.ring.configured()


def test_tenants_survive_a_restart(path: Path) -> None:
    with opened_tenancy(path) as before:
        _, key = before.tenants.create("acme")
    with opened_tenancy(path) as after:
        assert owner_of(after, key) == "acme"


def test_the_file_is_for_its_owner_alone(tenancy: Tenancy, path: Path) -> None:
    tenancy.tenants.create("acme")
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}


def test_every_change_is_in_the_audit_log(tenancy: Tenancy) -> None:
    tenant, secret = tenancy.tenants.create("acme", actor="cli")
    tenancy.tenants.rename("acme", "emca")
    tenancy.tenants.suspend("emca")
    tenancy.tenants.suspend("emca")  # changes nothing
    tenancy.tenants.resume("emca")
    tenancy.quotas.set(tenant.id, {"max_rank": 8}, actor="cli")
    key, other = tenancy.keys.rotate(tenant.id, tenant.key_ids[0], actor="key:abc")
    tenancy.keys.revoke(tenant.id, key.id)
    tenancy.tenants.delete("emca")
    log = tenancy.audit.read()
    assert [(change.action, change.actor) for change in log] == [
        ("tenant.created", "cli"),
        ("key.created", "cli"),
        ("tenant.renamed", "operator"),
        ("tenant.suspended", "operator"),
        ("tenant.resumed", "operator"),
        ("quota.set", "cli"),
        ("key.created", "key:abc"),
        ("key.rotated", "key:abc"),
        ("key.revoked", "operator"),
        ("tenant.deleted", "operator"),
    ]
    assert {change.tenant for change in log} == {tenant.id}
    assert secret not in str(log)
    assert other not in str(log)
    assert tenancy.audit.read(after=log[0].id, limit=2) == log[1:3]
    assert tenancy.audit.read(limit=2) == log[-2:]
    assert tenancy.audit.read(tenant="nobody") == []


def test_a_key_made_beside_a_server_is_known_at_once(tenancy: Tenancy, path: Path) -> None:
    with opened_tenancy(path) as beside:
        key = beside.tenants.create("acme")[1]
        assert owner_of(tenancy, key) == "acme"
        assert owner_of(tenancy, beside.keys.create("acme")[1]) == "acme"
        admin = beside.keys.new_admin_key()
        assert tenancy.ring.is_admin(admin)


def test_many_threads_may_ask_and_change(tenancy: Tenancy) -> None:
    keys: list[tuple[str, str]] = []

    def work(number: int) -> None:
        for i in range(5):
            name = f"t{number}-{i}"
            keys.append((name, tenancy.tenants.create(name)[1]))
            assert all(owner_of(tenancy, key) == owner for owner, key in list(keys))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tenancy.tenants.list()) == len(keys) == 30


def test_a_lookup_asks_memory_alone(tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [tenancy.tenants.create(f"tenant-{i}")[1] for i in range(5)]
    monkeypatch.setattr("motet_database.Database.read", None)
    assert [owner_of(tenancy, key) for key in keys] == [f"tenant-{i}" for i in range(5)]
    assert tenancy.quota("tenant-0") == tenancy.quotas.default


def test_an_expired_key_opens_nothing(tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant, _ = tenancy.tenants.create("acme")
    now = time.time()
    key, secret = tenancy.keys.create(tenant.id, expires_at=int(now) + 100)
    assert owner_of(tenancy, secret) == "acme"
    monkeypatch.setattr(time, "time", lambda: now + 101)
    assert owner_of(tenancy, secret) is None
    assert key.id in tenancy.tenants.get("acme").key_ids  # still listed, until it is revoked
