"""What one process changes another learns of, in order and soon."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from motet_database import Change, ChangeFeed, Database, DatabaseUnavailable, record
from motet_database.change_feed import POLL_S

from tests.support.live_server import eventually

Opened = Callable[[], Database]


def change(database: Database, subject: str) -> None:
    with database.write() as connection:
        record(connection, actor="test", action="thing.done", subject=subject)


def test_changes_of_another_process_are_told_in_order_and_soon(opened: Opened) -> None:
    here, there = opened(), opened()
    change(there, "before")
    told: list[Change] = []
    arrived = threading.Event()

    def listen(changes: Sequence[Change]) -> None:
        told.extend(changes)
        if len(told) == 50:
            arrived.set()

    feed = ChangeFeed(here)
    feed.listen(listen)
    feed.start()
    for number in range(50):
        change(there, str(number))
    assert arrived.wait(20)
    feed.close()
    feed.close()
    assert [one.subject for one in told] == [str(number) for number in range(50)]


def test_a_poll_tells_at_once_what_was_just_committed(opened: Opened) -> None:
    database = opened()
    feed = ChangeFeed(database)
    told: list[Change] = []
    feed.listen(told.extend)
    change(database, "mine")
    feed.poll()
    feed.poll()
    assert [one.subject for one in told] == ["mine"]
    feed.close()


def test_a_database_that_is_away_for_a_while_loses_no_change(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opened()
    feed = ChangeFeed(database, interval_s=0.01)
    told: list[Change] = []
    feed.listen(told.extend)
    away = threading.Event()
    read = Database.read

    def failing(self: Database) -> object:
        if away.is_set() and threading.current_thread().name == "motet-changes":
            raise DatabaseUnavailable
        return read(self)

    monkeypatch.setattr(Database, "read", failing)
    away.set()
    feed.start()
    change(database, "missed")
    time.sleep(0.1)
    assert told == []
    away.clear()
    assert eventually(lambda: told != [])
    feed.close()
    assert [one.subject for one in told] == ["missed"]


def test_a_listener_that_raises_is_told_again(opened: Opened) -> None:
    database = opened()
    feed = ChangeFeed(database)
    told: list[str] = []

    def listen(changes: Sequence[Change]) -> None:
        told.extend(one.subject for one in changes)
        if len(told) == 1:
            raise RuntimeError("not yet")

    feed.listen(listen)
    change(database, "one")
    with pytest.raises(RuntimeError):
        feed.poll()
    feed.poll()
    assert told == ["one", "one"]
    feed.close()


def test_what_a_server_polls_by_default_is_well_within_the_promised_second() -> None:
    assert POLL_S <= 0.25
