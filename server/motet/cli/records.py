"""The records of a data directory, for commands that work beside a server or without one."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from motet_database import Database, DatabaseFailure

from motet.cli.terminal import remarks, results, say
from motet.database import open_database
from motet.errors import MotetError
from motet.settings import Settings

ACTOR = "cli"
"""How the audit log names who typed the command."""


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    """Raises MotetError for what the database cannot do."""
    with closing(open_database(settings)) as database:
        try:
            yield database
        except DatabaseFailure as error:
            raise MotetError(error.message, error.code) from None


def show_key(key: str, whose: str) -> None:
    # The key alone goes to stdout, so that KEY=$(motet tenants create NAME) works.
    say(remarks(), f"{whose}. It is shown this once and kept only as a digest:")
    say(results(), key)


def minute(seconds: int) -> str:
    """Unix seconds as UTC, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
