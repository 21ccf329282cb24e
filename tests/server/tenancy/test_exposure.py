from collections.abc import Iterator
from pathlib import Path

import pytest
from motet.errors import InvalidSetting
from motet.settings import Settings
from motet.tenancy.exposure import check_exposure
from motet.tenancy.tenants import Tenants

from tests.support.tenants import opened_tenancy


@pytest.fixture
def tenants(tmp_path: Path) -> Iterator[Tenants]:
    with opened_tenancy(tmp_path / "motet.sqlite3") as opened:
        yield opened.tenants


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_without_tenants_loopback_is_served_and_said(tenants: Tenants, host: str) -> None:
    notice = check_exposure(Settings(host=host), tenants)
    assert notice is not None
    assert "motet tenants create" in notice


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_without_tenants_the_world_is_refused_with_the_fix(tenants: Tenants, host: str) -> None:
    with pytest.raises(InvalidSetting, match="motet tenants create"):
        check_exposure(Settings(host=host), tenants)


def test_with_a_tenant_any_host_will_do(tenants: Tenants) -> None:
    tenants.create("acme")
    assert check_exposure(Settings(host="0.0.0.0"), tenants) is None
