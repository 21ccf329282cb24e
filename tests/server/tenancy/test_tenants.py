import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from motet.errors import RequestRefused, TenantExists, TenantNotFound
from motet.tenancy.tenants import Tenants

from tests.support.tenants import opened_tenants


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "motet.sqlite3"


@pytest.fixture
def tenants(path: Path) -> Iterator[Tenants]:
    with opened_tenants(path) as opened:
        yield opened


def test_a_created_tenant_is_known_by_its_key(tenants: Tenants) -> None:
    tenant, key = tenants.create("acme")
    assert key.startswith("motet_")
    assert len(key) == len("motet_") + 43  # 256 bits in base64
    assert tenants.authenticate(key) == "acme"
    assert tenant.revoked is None
    assert tenants.list() == [tenant]


def test_keys_differ_and_are_not_in_the_file(tenants: Tenants, path: Path) -> None:
    keys = {tenants.create(f"tenant-{i}")[1] for i in range(20)} | {tenants.new_admin_key()}
    assert len(keys) == 21
    stored = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not any(key.removeprefix("motet_").encode() in stored for key in keys)


@pytest.mark.parametrize("key", ["", "motet_", "motet_" + "A" * 43, "x" * 100_000, "é\ud800", "\0"])
def test_an_unknown_key_is_nobody(tenants: Tenants, key: str) -> None:
    tenants.create("acme")
    tenants.new_admin_key()
    assert tenants.authenticate(key) is None
    assert not tenants.is_admin(key)


@pytest.mark.parametrize(
    "name", ["", "Acme", "-a", ".a", "a/b", "../a", "a" * 65, "a b", "a\n", "é", "\ud800"]
)
def test_a_name_outside_the_rule_is_refused(tenants: Tenants, name: str) -> None:
    with pytest.raises(RequestRefused, match="not a valid tenant name"):
        tenants.create(name)
    assert not tenants.configured()


def test_a_name_is_given_once(tenants: Tenants) -> None:
    _, key = tenants.create("acme")
    with pytest.raises(TenantExists, match="already"):
        tenants.create("acme")
    assert tenants.authenticate(key) == "acme"


def test_a_revoked_tenant_keeps_its_name_and_can_come_back(tenants: Tenants) -> None:
    _, key = tenants.create("acme")
    second = tenants.add_key("acme")
    tenants.revoke("acme")
    assert tenants.authenticate(key) is None
    assert tenants.authenticate(second) is None
    assert tenants.get("acme").revoked is not None
    with pytest.raises(TenantExists, match="revoked"):
        tenants.create("acme")
    with pytest.raises(TenantNotFound):
        tenants.add_key("acme")
    third = tenants.rotate("acme")
    assert tenants.authenticate(third) == "acme"
    assert tenants.get("acme").revoked is None


def test_revoking_the_last_tenant_does_not_open_the_server(tenants: Tenants) -> None:
    assert not tenants.configured()
    tenants.create("acme")
    tenants.revoke("acme")
    assert tenants.configured()


def test_rotation_ends_every_older_key(tenants: Tenants) -> None:
    _, first = tenants.create("acme")
    second = tenants.add_key("acme")
    third = tenants.rotate("acme")
    assert [tenants.authenticate(key) for key in (first, second, third)] == [None, None, "acme"]
    assert len(tenants.get("acme").key_ids) == 1


def test_one_key_of_several_is_revoked(tenants: Tenants) -> None:
    _, first = tenants.create("acme")
    tenants.create("other")
    (id,) = tenants.get("acme").key_ids
    second = tenants.add_key("acme")
    with pytest.raises(TenantNotFound):
        tenants.revoke_key("other", id)
    tenants.revoke_key("acme", id)
    assert tenants.authenticate(first) is None
    assert tenants.authenticate(second) == "acme"


@pytest.mark.parametrize("method", ["get", "add_key", "rotate", "revoke"])
def test_a_missing_tenant_is_said_to_be_missing(tenants: Tenants, method: str) -> None:
    with pytest.raises(TenantNotFound, match="no tenant named"):
        getattr(tenants, method)("nobody")


def test_the_admin_key_is_one_and_is_no_tenant_key(tenants: Tenants) -> None:
    assert not tenants.has_admin_key()
    first, second = tenants.new_admin_key(), tenants.new_admin_key()
    assert tenants.has_admin_key()
    assert not tenants.is_admin(first)
    assert tenants.is_admin(second)
    assert tenants.authenticate(second) is None
    assert not tenants.configured()


def test_tenants_survive_a_restart(path: Path) -> None:
    with opened_tenants(path) as before:
        _, key = before.create("acme")
    with opened_tenants(path) as after:
        assert after.authenticate(key) == "acme"


def test_the_file_is_for_its_owner_alone(tenants: Tenants, path: Path) -> None:
    tenants.create("acme")
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}


def test_a_change_by_another_process_counts_at_once(tenants: Tenants, path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from motet.tenancy.tenants import Tenants;"
        "from motet_database import Database;"
        "t = Tenants(Database.at_path(Path(sys.argv[1]))); getattr(t, sys.argv[2])('acme')"
    )

    def elsewhere(method: str) -> None:
        subprocess.run([sys.executable, "-c", program, str(path), method], check=True)

    elsewhere("create")
    assert tenants.configured()
    key = tenants.add_key("acme")
    assert tenants.authenticate(key) == "acme"
    elsewhere("revoke")
    assert tenants.authenticate(key) is None


def test_many_threads_may_ask_and_change(tenants: Tenants) -> None:
    keys: list[tuple[str, str]] = []

    def work(number: int) -> None:
        for i in range(5):
            name = f"t{number}-{i}"
            keys.append((name, tenants.create(name)[1]))
            assert all(tenants.authenticate(key) == owner for owner, key in list(keys))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tenants.list()) == len(keys) == 30


def test_a_lookup_is_cheap_enough_to_be_made_for_each_request(tenants: Tenants) -> None:
    keys = [tenants.create(f"tenant-{i}")[1] for i in range(50)]
    started = time.perf_counter()
    for key in keys * 20:
        tenants.authenticate(key)
    # Some 10 microseconds each on a quiet machine; the bound only catches a change of kind.
    assert (time.perf_counter() - started) / 1000 < 0.002
