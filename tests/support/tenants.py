"""Tenants in a file of a test's own."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from motet.tenancy.tenants import Tenants
from motet_database import Database


@contextmanager
def opened_tenants(path: Path) -> Iterator[Tenants]:
    with closing(Database.at_path(path)) as database:
        yield Tenants(database)
