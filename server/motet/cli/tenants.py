"""`motet tenants`: who may call the server. A server that is running sees each change at once."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer
from motet_database import DatabaseFailure
from rich.table import Table

from motet.cli.settings_flags import with_settings
from motet.cli.terminal import remarks, results, say
from motet.database import open_database
from motet.errors import MotetError
from motet.settings import Settings
from motet.tenancy.tenants import Tenants

tenants = typer.Typer(help="Create, list and revoke tenants.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the tenant.")]


@tenants.command()
@with_settings("data_dir", "database_url")
def create(name: Name, settings: Settings) -> None:
    """Create a tenant and show its key, once."""
    with _opened(settings) as stored:
        first = not stored.configured()
        key = stored.create(name)[1]
    _show_key(key, f"The key of tenant {name}")
    if first:
        say(remarks(), "This is the first tenant: from now on every request needs a key.")


@tenants.command("list")
@with_settings("data_dir", "database_url")
def list_(settings: Settings) -> None:
    """List the tenants. Keys are kept only as digests; their ids name them."""
    with _opened(settings) as stored:
        found = stored.list()
    if not found:
        say(remarks(), "No tenants yet. Create one with: motet tenants create NAME")
        return
    table = Table("tenant", "created (UTC)", "state", "key ids", box=None, pad_edge=False)
    for tenant in found:
        state = "active" if tenant.revoked is None else f"revoked {_day(tenant.revoked)}"
        table.add_row(tenant.name, _day(tenant.created), state, " ".join(tenant.key_ids) or "-")
    results().print(table, markup=False)


@tenants.command()
@with_settings("data_dir", "database_url")
def revoke(
    name: Name,
    settings: Settings,
    key_id: Annotated[
        str | None, typer.Option(help="End this one key only, not the tenant.")
    ] = None,
) -> None:
    """End a tenant and all its keys, or one key of it. Its adapters stay stored."""
    with _opened(settings) as stored:
        if key_id is None:
            stored.revoke(name)
        else:
            stored.revoke_key(name, key_id)
    say(results(), f"Revoked {f'tenant {name}' if key_id is None else f'key {key_id} of {name}'}.")


@tenants.command()
@with_settings("data_dir", "database_url")
def rotate(
    name: Name,
    settings: Settings,
    keep: Annotated[
        bool, typer.Option("--keep", help="Add a key and leave the older ones working.")
    ] = False,
) -> None:
    """Give a tenant a new key in place of all it has. Brings a revoked tenant back."""
    with _opened(settings) as stored:
        key = stored.add_key(name) if keep else stored.rotate(name)
    _show_key(key, f"The new key of tenant {name}")


@tenants.command("admin-key")
@with_settings("data_dir", "database_url")
def admin_key(settings: Settings) -> None:
    """Make the key that opens /admin, in place of any older one, and show it once."""
    with _opened(settings) as stored:
        key = stored.new_admin_key()
    _show_key(key, "The admin key")


@contextmanager
def _opened(settings: Settings) -> Iterator[Tenants]:
    with closing(open_database(settings)) as database:
        try:
            yield Tenants(database)
        except DatabaseFailure as error:
            raise MotetError(error.message, error.code) from None


def _show_key(key: str, whose: str) -> None:
    # The key alone goes to stdout, so that KEY=$(motet tenants create NAME) works.
    say(remarks(), f"{whose}. It is shown this once and kept only as a digest:")
    say(results(), key)


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
