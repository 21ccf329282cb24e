"""`motet keys`: the keys of a tenant, one by one."""

import time
from typing import Annotated

import typer
from rich.table import Table

from motet.cli.records import ACTOR, minute, opened, show_key
from motet.cli.settings_flags import with_settings
from motet.cli.tenants import Name, Scopes
from motet.cli.terminal import remarks, results, say
from motet.settings import Settings
from motet.tenancy.scopes import USUAL_SCOPES
from motet.tenancy.tenant_keys import TenantKeys
from motet.tenancy.tenants import Tenants, nothing

keys = typer.Typer(help="Create, list, rotate and revoke keys of a tenant.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(help="Id of the key: motet keys list NAME.")]
_DAY_S = 24 * 3600


@keys.command()
@with_settings("data_dir", "database_url")
def create(
    name: Name,
    settings: Settings,
    scope: Scopes = list(USUAL_SCOPES),  # noqa: B006
    label: Annotated[str, typer.Option(help="A note, shown in the list.")] = "",
    days: Annotated[float | None, typer.Option(help="Days until it expires; unset: never.")] = None,
) -> None:
    """Give a tenant a further key and show it, once."""
    expires_at = None if days is None else int(time.time() + days * _DAY_S)
    with opened(settings) as database:
        tenant = Tenants(database).get(name).id
        key = TenantKeys(database, nothing).create(
            tenant, scopes=scope, label=label, expires_at=expires_at, actor=ACTOR
        )[1]
    show_key(key, f"A key of tenant {name}")


@keys.command("list")
@with_settings("data_dir", "database_url")
def list_(name: Name, settings: Settings) -> None:
    """List a tenant's keys: what they may do, until when, and when they were last used."""
    with opened(settings) as database:
        found = TenantKeys(database, nothing).list(Tenants(database).get(name).id)
    if not found:
        say(remarks(), f"No keys. Create one with: motet keys create {name}")
        return
    columns = ("id", "scopes", "created (UTC)", "expires", "last used", "label")
    table = Table(*columns, box=None, pad_edge=False)
    for key in found:
        expires = "never" if key.expires_at is None else minute(key.expires_at)
        used = "never" if key.last_used is None else minute(key.last_used)
        scopes = ",".join(key.scopes)
        table.add_row(key.id, scopes, minute(key.created), expires, used, key.label)
    results().print(table, markup=False)


@keys.command()
@with_settings("data_dir", "database_url")
def rotate(
    name: Name,
    key_id: KeyId,
    settings: Settings,
    grace_s: Annotated[int, typer.Option(help="Seconds for which the old key still works.")] = 0,
) -> None:
    """Put a new key in place of one: same scopes, same label, as long a life."""
    with opened(settings) as database:
        tenant = Tenants(database).get(name).id
        key = TenantKeys(database, nothing).rotate(tenant, key_id, grace_s=grace_s, actor=ACTOR)[1]
    show_key(key, f"The new key of tenant {name}")


@keys.command()
@with_settings("data_dir", "database_url")
def revoke(name: Name, key_id: KeyId, settings: Settings) -> None:
    """End one key of a tenant."""
    with opened(settings) as database:
        tenant = Tenants(database).get(name).id
        TenantKeys(database, nothing).revoke(tenant, key_id, actor=ACTOR)
    say(results(), f"Revoked key {key_id} of {name}.")
