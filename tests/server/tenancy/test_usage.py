import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from motet.tenancy.tenancy import Tenancy
from motet.tenancy.usage import Amount
from motet.tenancy.usage_report import COLUMNS, csv_lines
from motet_database import Database, DatabaseFull
from motet_database.tables import usage
from sqlalchemy import insert

from tests.support.tenants import opened_tenancy


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "motet.sqlite3"


@pytest.fixture
def tenancy(path: Path) -> Iterator[Tenancy]:
    with opened_tenancy(path) as opened:
        opened.tenants.create("acme")
        yield opened


def rows(tenancy: Tenancy, **which: object) -> list[tuple[object, ...]]:
    pages = tenancy.report.pages(**which)  # type: ignore[arg-type]
    return [
        (row.tenant, row.adapter, row.requests, row.prompt_tokens, row.completion_tokens)
        for page in pages
        for row in page
    ]


def test_amounts_add_up_over_flushes_and_restarts(tenancy: Tenancy, path: Path) -> None:
    for _ in range(3):
        tenancy.usage.add("acme", "sql", Amount(1, 10, 5))
    tenancy.try_flush()
    tenancy.usage.add("acme", "sql", Amount(1, 1, 1))
    tenancy.usage.add("acme", None, Amount(1, 2, 3))
    tenancy.close()
    with opened_tenancy(path) as again:
        assert rows(again) == [("acme", "", 1, 2, 3), ("acme", "sql", 4, 31, 16)]


def test_what_cannot_be_written_is_kept(tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch) -> None:
    tenancy.usage.add("acme", "sql", Amount(1, 10, 5))

    def full(self: Database) -> None:
        raise DatabaseFull

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", full)
        tenancy.try_flush()
    tenancy.usage.add("acme", "sql", Amount(1, 1, 1))
    tenancy.try_flush()
    assert rows(tenancy) == [("acme", "sql", 2, 11, 6)]


def test_a_report_goes_on_over_many_pages(path: Path, tenancy: Tenancy) -> None:
    with Database.at_path(path).write() as db:
        many = [
            {"tenant": tenant, "adapter": f"a{i}", "hour": hour * 3600}
            for tenant in ("acme", "other")
            for i in range(300)
            for hour in range(4)
        ]
        amounts = {"requests": 1, "prompt_tokens": 2, "completion_tokens": 3, "uploaded_bytes": 0}
        db.execute(insert(usage), [{**row, **amounts} for row in many])
    assert len(rows(tenancy)) == 2400
    assert len(set(rows(tenancy))) == 600  # each in four hours
    assert len(rows(tenancy, tenant="acme")) == 1200
    assert len(rows(tenancy, since=3600, until=3 * 3600)) == 1200


def test_csv_has_a_header_and_hours_in_utc(path: Path, tenancy: Tenancy) -> None:
    with Database.at_path(path).write() as db:
        row = {"tenant": "acme", "adapter": "sql", "hour": 7200, "requests": 1}
        counts = {"prompt_tokens": 2, "completion_tokens": 3, "uploaded_bytes": 4}
        db.execute(insert(usage), {**row, **counts})
    tenancy.tenants.rename("acme", "emca")
    text = "".join(csv_lines(tenancy.report.pages()))
    assert list(csv.reader(io.StringIO(text))) == [
        list(COLUMNS),
        ["1970-01-01T02:00:00Z", "emca", "acme", "sql", "1", "2", "3", "4"],
    ]
