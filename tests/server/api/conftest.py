from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.adapter_files import random_adapter
from tests.support.live_server import LiveServer, live_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with two tenants; "acme" has the adapters "french" and "sql"."""
    directory: Path = tmp_path_factory.mktemp("server")
    with live_server(directory) as running:
        for seed, name in enumerate(("french", "sql")):
            random_adapter(running.base, seed=seed).put(running.store, "acme", name)
        yield running
