"""What one server does to adapters another one knows soon."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterNotFound, AdapterStore, Condition, ConditionFailed, Limits
from motet_database import ChangeFeed, Database, record
from motet_database.adapter_rows import delete_adapters_of

from tests.support.adapter_files import random_adapter
from tests.support.base_weights import RandomBase
from tests.support.live_server import eventually

BASE = RandomBase.llama(layers=1)
FIRST, SECOND = (random_adapter(BASE, seed=seed) for seed in (1, 2))


@pytest.fixture
def stores(opened: Callable[[], Database], tmp_path: Path) -> Iterator[list[AdapterStore]]:
    """Two, each with a feed that runs, as two servers would have."""
    with ExitStack() as stack:
        found = []
        for number in range(2):
            database = opened()
            feed = ChangeFeed(database)
            store = AdapterStore(
                tmp_path / str(number),
                BASE,
                dtype=torch.float32,
                limits=Limits(),
                host_bytes=0,
                database=database,
                changes=feed,
            )
            stack.enter_context(closing(store))
            stack.enter_context(closing(feed))
            feed.start()
            found.append(store)
        yield found


def test_each_sees_what_the_other_does(stores: list[AdapterStore]) -> None:
    here, there = stores
    first = FIRST.put(here)
    assert eventually(lambda: first in there.list("acme"))
    second = SECOND.put(there)
    assert eventually(lambda: here.get("acme", "one") == second)
    assert here.versions("acme", "one").all == (second, first)
    here.roll_back("acme", "one")
    assert eventually(lambda: there.get("acme", "one") == first)
    there.delete_version("acme", "one", 2)
    assert eventually(lambda: here.versions("acme", "one").all == (first,))
    SECOND.put(here, name="two")
    assert eventually(lambda: len(there.list("acme")) == 2)
    here.delete_tenant("acme")
    assert eventually(lambda: there.list("acme") == [])


def test_a_condition_is_decided_on_what_the_other_has_done(stores: list[AdapterStore]) -> None:
    here, there = stores
    digest = FIRST.put(here).digest
    assert eventually(lambda: len(there.list("acme")) == 1)
    condition = Condition(match=frozenset({digest}))
    SECOND.put(here)
    # Whether it knows of that yet or not.
    with pytest.raises(ConditionFailed):
        there.delete("acme", "one", condition=condition)
    there.delete("acme", "one")
    with pytest.raises(AdapterNotFound):
        here.delete("acme", "one")


def test_a_tenant_deleted_by_the_command_line_is_gone(
    stores: list[AdapterStore], opened: Callable[[], Database]
) -> None:
    FIRST.put(stores[0])
    FIRST.put(stores[0], "other")
    assert eventually(lambda: len(stores[1]) == 2)
    with opened().write() as connection:
        delete_adapters_of(connection, "acme", actor="cli")
        record(connection, actor="cli", action="tenant.deleted", tenant="acme")
    for store in stores:
        assert eventually(lambda store=store: store.list("acme") == [])
        assert len(store.list("other")) == 1
