import json
import stat

import pytest
from motet.cli.demo_keys import DemoKeys

from tests.support.tenants import opened_tenants

NAMES = ["red", "blue"]


@pytest.fixture
def tenants(tmp_path):
    with opened_tenants(tmp_path / "motet.sqlite3") as opened:
        yield opened


def _authenticated(tenants, keys):
    return {name: tenants.authenticate(key) for name, key in keys.items()}


def test_the_first_start_creates_tenants_and_keeps_their_keys_private(tenants, tmp_path):
    keys = DemoKeys(tmp_path).ensure(tenants, NAMES)
    assert _authenticated(tenants, keys) == {"red": "red", "blue": "blue"}
    file = tmp_path / "demo-keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == keys


def test_a_second_start_changes_nothing(tenants, tmp_path):
    first = DemoKeys(tmp_path).ensure(tenants, NAMES)
    before = (tmp_path / "demo-keys.json").stat().st_mtime_ns
    assert DemoKeys(tmp_path).ensure(tenants, NAMES) == first
    assert (tmp_path / "demo-keys.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["", "[]", '{"red": 1}', "\udcff"])
def test_a_lost_file_means_further_keys_and_no_lost_ones(tenants, tmp_path, damage):
    first = DemoKeys(tmp_path).ensure(tenants, NAMES)
    (tmp_path / "demo-keys.json").write_text(damage, errors="surrogateescape")
    second = DemoKeys(tmp_path).ensure(tenants, NAMES)
    assert set(second.values()).isdisjoint(first.values())
    assert _authenticated(tenants, second) == _authenticated(tenants, first)


def test_a_revoked_demo_tenant_is_brought_back(tenants, tmp_path):
    first = DemoKeys(tmp_path).ensure(tenants, NAMES)
    tenants.revoke("red")
    second = DemoKeys(tmp_path).ensure(tenants, NAMES)
    assert second["blue"] == first["blue"]
    assert tenants.authenticate(second["red"]) == "red"
    assert tenants.authenticate(first["red"]) is None


def test_other_tenants_are_left_alone(tenants, tmp_path):
    key = tenants.create("green")[1]
    DemoKeys(tmp_path).ensure(tenants, NAMES)
    assert tenants.authenticate(key) == "green"
    assert "green" not in (tmp_path / "demo-keys.json").read_text()
