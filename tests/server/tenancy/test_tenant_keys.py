import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from motet.errors import RequestRefused, TenantNotFound
from motet.tenancy.tenancy import Tenancy

from tests.support.tenants import opened_tenancy, owner_of


@pytest.fixture
def tenancy(tmp_path: Path) -> Iterator[Tenancy]:
    with opened_tenancy(tmp_path / "motet.sqlite3") as opened:
        opened.tenants.create("acme")
        opened.tenants.create("other")
        yield opened


def test_a_key_has_the_scopes_it_was_given(tenancy: Tenancy) -> None:
    key, secret = tenancy.keys.create("acme", scopes=["upload", "admin", "upload"], label="ci")
    caller = tenancy.ring.authenticate(secret)
    assert caller is not None
    assert (caller.tenant, caller.key_id) == ("acme", key.id)
    assert caller.scopes == {"admin", "upload"}
    assert key in tenancy.keys.list("acme")
    assert key not in tenancy.keys.list("other")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"label": "x" * 201},
        {"label": "a\nb"},
        {"expires_at": 5},
        {"expires_at": 1 << 60},
    ],
)
def test_what_makes_no_sense_is_refused_and_makes_no_key(
    tenancy: Tenancy, wrong: dict[str, Any]
) -> None:
    before = tenancy.keys.list("acme")
    with pytest.raises(RequestRefused):
        tenancy.keys.create("acme", **wrong)
    assert tenancy.keys.list("acme") == before


def test_rotation_keeps_scopes_label_and_length_of_life(tenancy: Tenancy) -> None:
    end = int(time.time()) + 1000
    old, before = tenancy.keys.create("acme", scopes=["infer"], label="app", expires_at=end)
    new, after = tenancy.keys.rotate("acme", old.id)
    assert (new.scopes, new.label) == (("infer",), "app")
    assert new.expires_at is not None
    assert abs(new.expires_at - new.created - 1000) <= 1
    assert owner_of(tenancy, before) is None
    assert owner_of(tenancy, after) == "acme"


def test_within_its_grace_the_old_key_still_works(
    tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, before = tenancy.keys.create("acme")
    _, after = tenancy.keys.rotate("acme", old.id, grace_s=60)
    assert [owner_of(tenancy, key) for key in (before, after)] == ["acme", "acme"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert [owner_of(tenancy, key) for key in (before, after)] == [None, "acme"]
    with pytest.raises(RequestRefused, match="grace_s"):
        tenancy.keys.rotate("acme", old.id, grace_s=-1)


def test_one_key_of_several_is_revoked(tenancy: Tenancy) -> None:
    first, one = tenancy.keys.create("acme")
    _, two = tenancy.keys.create("acme")
    for method in (tenancy.keys.revoke, tenancy.keys.rotate):
        with pytest.raises(TenantNotFound, match="no key"):
            method("other", first.id)
    tenancy.keys.revoke("acme", first.id)
    assert [owner_of(tenancy, key) for key in (one, two)] == [None, "acme"]


def test_the_last_use_is_written_to_the_minute(tenancy: Tenancy) -> None:
    key, secret = tenancy.keys.create("acme")
    before = int(time.time()) // 60 * 60
    for _ in range(3):
        assert owner_of(tenancy, secret) == "acme"
    tenancy.try_flush()
    used = {one.id: one.last_used for one in tenancy.keys.list("acme")}
    assert used.pop(key.id) in (before, before + 60)
    assert set(used.values()) == {None}
    assert tenancy.ring.take_used() == {}
