"""Tenants in a file of a test's own."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from motet.settings import Settings
from motet.tenancy.tenancy import Tenancy
from motet_database import ChangeFeed, Database


@contextmanager
def opened_tenancy(path: Path, **settings: object) -> Iterator[Tenancy]:
    """Nothing runs in it: what it changes itself counts at once, what others do never does."""
    with closing(Database.at_path(path)) as database:
        yield tenancy_of(database, **settings)


def tenancy_of(database: Database, **settings: object) -> Tenancy:
    return Tenancy(database, ChangeFeed(database), Settings(**settings))  # type: ignore[arg-type]


def owner_of(tenancy: Tenancy, key: str) -> str | None:
    """The name of the tenant whose key this is."""
    caller = tenancy.ring.authenticate(key)
    return None if caller is None else tenancy.ring.name(caller.tenant)
