"""`motet usage` and `motet audit`: what was used, and what was changed by whom."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from typing import Annotated

import typer
from rich.table import Table

from motet.cli.records import minute, opened
from motet.cli.settings_flags import with_settings
from motet.cli.terminal import results, say
from motet.settings import Settings
from motet.tenancy.audit_trail import AuditTrail
from motet.tenancy.tenants import Tenants
from motet.tenancy.usage_report import UsageReport, csv_lines

_DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]

Since = Annotated[datetime | None, typer.Option(formats=_DATES, help="From then on (UTC).")]
Until = Annotated[datetime | None, typer.Option(formats=_DATES, help="Before then (UTC).")]


@with_settings("data_dir", "database_url")
def usage(
    settings: Settings,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.")] = None,
    since: Since = None,
    until: Until = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, with a header.")] = False,
) -> None:
    """Show requests, tokens and bytes by hour, tenant and adapter."""
    with opened(settings) as database:
        id = None if tenant is None else Tenants(database).get(tenant).id
        pages = UsageReport(database).pages(tenant=id, since=_unix(since), until=_unix(until))
        if as_csv:
            for lines in csv_lines(pages):
                sys.stdout.write(lines)
            return
        rows = list(chain.from_iterable(pages))
    numbers = ("requests", "prompt_tokens", "completion_tokens", "uploaded_bytes")
    table = Table("hour (UTC)", "tenant", "adapter", *numbers, box=None, pad_edge=False)
    for row in rows:
        used = [str(getattr(row, name)) for name in numbers]
        table.add_row(minute(row.hour), row.tenant, row.adapter or "(base)", *used)
    results().print(table, markup=False)


@with_settings("data_dir", "database_url")
def audit(
    settings: Settings,
    tenant: Annotated[str | None, typer.Option(help="About this tenant's id alone.")] = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="What followed this change; unset: the newest.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Show every change of tenants, keys, quotas and adapters, oldest first."""
    with opened(settings) as database:
        found = AuditTrail(database).read(after=after, limit=limit, tenant=tenant)
    if as_json:
        for change in found:
            say(results(), json.dumps(asdict(change)))
        return
    table = Table("id", "at (UTC)", "actor", "tenant", "action", "subject", "detail", box=None)
    for change in found:
        detail = " ".join(f"{name}={value}" for name, value in change.detail.items())
        table.add_row(
            str(change.id),
            minute(change.at),
            change.actor,
            change.tenant or "-",
            change.action,
            change.subject or "-",
            detail,
        )
    results().print(table, markup=False)


def _unix(when: datetime | None) -> int | None:
    return None if when is None else int(when.replace(tzinfo=UTC).timestamp())
