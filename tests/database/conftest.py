from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest
from motet_database import Database
from sqlalchemy import create_engine, text

from tests.support.postgresql import postgresql


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql(tmp_path_factory.mktemp("server")) as url:
        yield url


_numbers = count()


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """Of an empty database of this test's own."""
    name = f"test_{next(_numbers)}"
    engine = create_engine(
        postgresql_server.replace("postgresql:", "postgresql+psycopg:"),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgresql_server.rpartition("/")[0] + f"/{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Opens the same database again and again, each time as another process would."""
    if request.param == "sqlite":

        def open_one() -> Database:
            return Database.at_path(tmp_path / "motet.sqlite3")
    else:
        url = request.getfixturevalue("postgresql_url")

        def open_one() -> Database:
            return Database.at_url(url)

    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(open_one()))
