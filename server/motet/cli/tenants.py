"""`motet tenants`: who may call the server. A running one sees each change within a second."""

from typing import Annotated

import typer
from rich.table import Table

from motet.cli.records import ACTOR, minute, opened, show_key
from motet.cli.settings_flags import with_settings
from motet.cli.terminal import remarks, results, say
from motet.errors import RequestRefused
from motet.settings import Settings
from motet.tenancy.quotas import LIMITS, Quota, Quotas
from motet.tenancy.scopes import USUAL_SCOPES
from motet.tenancy.tenancy import default_quota
from motet.tenancy.tenant_keys import TenantKeys
from motet.tenancy.tenants import Tenants, nothing

tenants = typer.Typer(
    help="Create, list, rename, suspend and delete tenants.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Name of the tenant.")]
Scopes = Annotated[
    list[str],
    typer.Option("--scope", help="What the key may do: infer, upload, admin. Repeat it for more."),
]


@tenants.command()
@with_settings("data_dir", "database_url")
def create(name: Name, settings: Settings, scope: Scopes = list(USUAL_SCOPES)) -> None:  # noqa: B006
    """Create a tenant and show its key, once."""
    with opened(settings) as database:
        stored = Tenants(database)
        first = not stored.configured()
        key = stored.create(name, scopes=scope, actor=ACTOR)[1]
    show_key(key, f"The key of tenant {name}")
    if first:
        say(remarks(), "This is the first tenant: from now on every request needs a key.")


@tenants.command("list")
@with_settings("data_dir", "database_url")
def list_(settings: Settings) -> None:
    """List the tenants. Keys are kept only as digests; their ids name them."""
    with opened(settings) as database:
        found = Tenants(database).list()
    if not found:
        say(remarks(), "No tenants yet. Create one with: motet tenants create NAME")
        return
    table = Table("tenant", "created (UTC)", "state", "key ids", box=None, pad_edge=False)
    for one in found:
        state = "active" if one.state == "active" else f"{one.state} {minute(one.state_since)}"
        table.add_row(one.name, minute(one.created), state, " ".join(one.key_ids) or "-")
    results().print(table, markup=False)


@tenants.command()
@with_settings("data_dir", "database_url")
def rename(
    name: Name, new: Annotated[str, typer.Argument(help="Its new name.")], settings: Settings
) -> None:
    """Give a tenant another name. Keys, adapters and usage stay with it."""
    with opened(settings) as database:
        Tenants(database).rename(name, new, actor=ACTOR)
    say(results(), f"Tenant {name} is now {new}.")


@tenants.command()
@with_settings("data_dir", "database_url")
def suspend(name: Name, settings: Settings) -> None:
    """Let a tenant do nothing until it is resumed. It keeps its adapters and keys."""
    with opened(settings) as database:
        Tenants(database).suspend(name, actor=ACTOR)
    say(results(), f"Suspended tenant {name}.")


@tenants.command()
@with_settings("data_dir", "database_url")
def resume(name: Name, settings: Settings) -> None:
    """Let a suspended tenant's keys work again."""
    with opened(settings) as database:
        Tenants(database).resume(name, actor=ACTOR)
    say(results(), f"Resumed tenant {name}.")


@tenants.command()
@with_settings("data_dir", "database_url")
def delete(
    name: Name,
    settings: Settings,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a tenant with its keys and all its adapters, for good. Usage and audit log stay."""
    with opened(settings) as database:
        stored = Tenants(database)
        stored.get(name)
        if not yes:
            typer.confirm(f"Delete tenant {name} and all its adapters for good?", abort=True)
        stored.delete(name, actor=ACTOR)
    say(results(), f"Deleted tenant {name}.")


@tenants.command()
@with_settings("data_dir", "database_url")
def rotate(name: Name, settings: Settings, scope: Scopes = list(USUAL_SCOPES)) -> None:  # noqa: B006
    """End all keys of a tenant and give it a new one. One key alone: motet keys rotate."""
    with opened(settings) as database:
        key = Tenants(database).rotate(name, scopes=scope, actor=ACTOR)
    show_key(key, f"The new key of tenant {name}")


@tenants.command()
@with_settings("data_dir", "database_url")
def quota(
    name: Name,
    settings: Settings,
    limits: Annotated[
        list[str] | None,
        typer.Option("--set", help="LIMIT=NUMBER, or LIMIT=default. Repeat it for more."),
    ] = None,
) -> None:
    """Show a tenant's limits, or set some of them."""
    with opened(settings) as database:
        quotas = Quotas(database, default_quota(settings), nothing)
        tenant = Tenants(database).get(name).id
        if limits:
            own = quotas.set(tenant, dict(_limit(text) for text in limits), actor=ACTOR)
        else:
            own = quotas.get(tenant)
    _show_quota(own, own.over(quotas.default))


@tenants.command("admin-key")
@with_settings("data_dir", "database_url")
def admin_key(settings: Settings) -> None:
    """Make the key that opens /admin, in place of any older one, and show it once."""
    with opened(settings) as database:
        key = TenantKeys(database, nothing).new_admin_key(actor=ACTOR)
    show_key(key, "The admin key")


def _limit(text: str) -> tuple[str, int | None]:
    name, _, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if value.strip() == "default":
        return name, None
    try:
        return name, int(value)
    except ValueError:
        raise RequestRefused(
            f"{text!a}: write LIMIT=NUMBER or LIMIT=default; the limits are {', '.join(LIMITS)}.",
            "invalid_limit",
        ) from None


def _show_quota(own: Quota, effective: Quota) -> None:
    table = Table("limit", "value", "from", box=None, pad_edge=False)
    for limit in LIMITS:
        value = getattr(effective, limit)
        origin = "default" if getattr(own, limit) is None else "tenant"
        table.add_row(limit, "-" if value is None else str(value), origin)
    results().print(table, markup=False)
