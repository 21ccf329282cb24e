import json
import stat

import pytest
from motet.cli.demo_keys import DemoKeys

from tests.support.tenants import opened_tenancy, owner_of

NAMES = ["red", "blue"]


@pytest.fixture
def tenancy(tmp_path):
    with opened_tenancy(tmp_path / "motet.sqlite3") as opened:
        yield opened


def _authenticated(tenancy, keys):
    return {name: owner_of(tenancy, key) for name, key in keys.items()}


def test_the_first_start_creates_tenants_and_keeps_their_keys_private(tenancy, tmp_path):
    keys = DemoKeys(tmp_path).ensure(tenancy, NAMES)
    assert _authenticated(tenancy, keys) == {"red": "red", "blue": "blue"}
    file = tmp_path / "demo-keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == keys


def test_a_second_start_changes_nothing(tenancy, tmp_path):
    first = DemoKeys(tmp_path).ensure(tenancy, NAMES)
    before = (tmp_path / "demo-keys.json").stat().st_mtime_ns
    assert DemoKeys(tmp_path).ensure(tenancy, NAMES) == first
    assert (tmp_path / "demo-keys.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["", "[]", '{"red": 1}', "\udcff"])
def test_a_lost_file_means_further_keys_and_no_lost_ones(tenancy, tmp_path, damage):
    first = DemoKeys(tmp_path).ensure(tenancy, NAMES)
    (tmp_path / "demo-keys.json").write_text(damage, errors="surrogateescape")
    second = DemoKeys(tmp_path).ensure(tenancy, NAMES)
    assert set(second.values()).isdisjoint(first.values())
    assert _authenticated(tenancy, second) == _authenticated(tenancy, first)


def test_a_suspended_demo_tenant_is_brought_back(tenancy, tmp_path):
    first = DemoKeys(tmp_path).ensure(tenancy, NAMES)
    tenancy.tenants.suspend("red")
    second = DemoKeys(tmp_path).ensure(tenancy, NAMES)
    assert second["blue"] == first["blue"]
    assert owner_of(tenancy, second["red"]) == "red"
    assert second["red"] == first["red"]


def test_other_tenants_are_left_alone(tenancy, tmp_path):
    key = tenancy.tenants.create("green")[1]
    DemoKeys(tmp_path).ensure(tenancy, NAMES)
    assert owner_of(tenancy, key) == "green"
    assert "green" not in (tmp_path / "demo-keys.json").read_text()
