"""Versions of a name: published, listed, rolled back, deleted, capped, expired, conditional."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from motet_adapters import (
    ANY,
    Adapter,
    AdapterNotFound,
    AdapterStore,
    Arena,
    Condition,
    ConditionFailed,
    Limits,
    VersionNotFound,
)
from motet_adapters.errors import InvalidTag
from motet_database.tables import audit
from sqlalchemy import Connection, select

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, random_adapter
from tests.support.base_weights import RandomBase

BASE = RandomBase.llama(layers=1)
UPLOADS = [random_adapter(BASE, seed=seed) for seed in range(4)]


class Clock:
    """Unix seconds that pass when a test says so."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(root: Path, clock: Clock, max_versions: int = 3) -> AdapterStore:
    return AdapterStore(
        root,
        BASE,
        dtype=torch.float32,
        limits=Limits(),
        host_bytes=1 << 20,
        max_versions=max_versions,
        clock=clock,
    )


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[AdapterStore]:
    store = opened(tmp_path, clock)
    yield store
    store.close()


def put(
    store: AdapterStore, upload: int, name: str = "one", tenant: str = "acme", **how: object
) -> Adapter:
    with store.stage() as staging:
        staging.write(CONFIG_FILE, UPLOADS[upload].config_bytes)
        staging.write(WEIGHTS_FILE, UPLOADS[upload].weights_bytes)
        return store.put(tenant, name, staging, **how)  # type: ignore[arg-type]


def numbers(store: AdapterStore, name: str = "one") -> list[int]:
    return [version.number for version in store.versions("acme", name).all]


def sources(root: Path) -> set[str]:
    return {path.name for path in (root / "sources").iterdir()}


def actions(store: AdapterStore) -> list[tuple[str, str]]:
    with store._registry._database.read() as connection:
        rows = connection.execute(select(audit.c.action, audit.c.subject).order_by(audit.c.id))
        return [(row.action, row.subject) for row in rows]


def test_each_put_publishes_a_version_and_the_old_ones_stay(
    store: AdapterStore, tmp_path: Path, clock: Clock
) -> None:
    first = put(store, 0)
    lease = store.lease("acme", "one")
    second = put(store, 1, tags=["b", "a", "b"])
    assert (first.number, second.number, second.tags) == (1, 2, ("a", "b"))
    assert store.get("acme", "one") == second
    assert store.versions("acme", "one").all == (second, first)
    assert lease.adapter == first
    assert store.image(first.digest).digest == first.digest
    lease.release()
    store.close()
    store = opened(tmp_path, clock)
    assert store.versions("acme", "one").all == (second, first)
    assert store.get("acme", "one") == second
    store.close()


def test_what_is_served_already_is_no_new_version(store: AdapterStore) -> None:
    first = put(store, 0, tags=["x"])
    assert put(store, 0, tags=["x"]) == first
    assert numbers(store) == [1]
    # The same bytes with another end are another version: a version never changes.
    assert put(store, 0, expires_at=2_000_000_000).number == 2
    assert [version.expires_at for version in store.versions("acme", "one").all] == [
        2_000_000_000,
        None,
    ]


def test_the_oldest_leave_when_there_are_too_many(store: AdapterStore, tmp_path: Path) -> None:
    adapters = [put(store, upload) for upload in range(4)]
    assert numbers(store) == [4, 3, 2]
    assert sources(tmp_path) == {adapter.digest for adapter in adapters[1:]}


def test_roll_back_and_forth(store: AdapterStore) -> None:
    first, second, third = (put(store, upload) for upload in range(3))
    assert store.roll_back("acme", "one") == second
    assert store.get("acme", "one") == second
    assert store.roll_back("acme", "one") == first
    with pytest.raises(VersionNotFound):
        store.roll_back("acme", "one")
    assert store.roll_back("acme", "one", 3) == third
    assert store.roll_back("acme", "one", 3) == third
    with pytest.raises(VersionNotFound):
        store.roll_back("acme", "one", 4)
    with pytest.raises(AdapterNotFound):
        store.roll_back("other", "one", 1)
    assert [action for action, _ in actions(store)].count("adapter.rolled_back") == 3
    # The next one is numbered on, and the cap counts from it.
    store.roll_back("acme", "one", 1)
    assert put(store, 3).number == 4
    assert numbers(store) == [4, 3, 2]


def test_versions_are_deleted_one_by_one(store: AdapterStore, tmp_path: Path) -> None:
    first, _, third = (put(store, upload) for upload in range(3))
    store.delete_version("acme", "one", 2)
    assert store.versions("acme", "one").all == (third, first)
    assert sources(tmp_path) == {first.digest, third.digest}
    store.delete_version("acme", "one", 3)
    assert store.get("acme", "one") == first
    with pytest.raises(VersionNotFound):
        store.delete_version("acme", "one", 3)
    with pytest.raises(AdapterNotFound):
        store.delete_version("other", "one", 1)
    # A number is not given again while the name lives.
    assert put(store, 1).number == 4
    store.delete_version("acme", "one", 1)
    store.delete_version("acme", "one", 4)
    with pytest.raises(AdapterNotFound):
        store.versions("acme", "one")
    assert sources(tmp_path) == set()
    assert put(store, 1).number == 1


def test_delete_takes_all_versions(store: AdapterStore, tmp_path: Path) -> None:
    for upload in range(3):
        put(store, upload)
    store.delete("acme", "one")
    assert sources(tmp_path) == set()
    with pytest.raises(AdapterNotFound):
        store.versions("acme", "one")


def test_a_tenant_is_deleted_with_all_it_has_and_nobody_else(
    store: AdapterStore, tmp_path: Path
) -> None:
    put(store, 0), put(store, 1), put(store, 1, "two")
    kept = put(store, 1, tenant="other")
    seen: list[int] = []
    store.delete_tenant("acme", also=lambda connection: seen.append(1))
    assert store.list("acme") == []
    assert store.list("other") == [kept]
    assert sources(tmp_path) == {kept.digest}
    assert seen == [1]

    def refuse(connection: Connection) -> None:
        raise RuntimeError("not now")

    with pytest.raises(RuntimeError):
        store.delete_tenant("other", also=refuse)
    assert store.list("other") == [kept]
    assert actions(store)[-2:] == [("adapter.deleted", "one"), ("adapter.deleted", "two")]


def test_an_expired_adapter_is_like_none_and_goes(
    store: AdapterStore, tmp_path: Path, clock: Clock
) -> None:
    put(store, 0)
    put(store, 1, expires_at=int(clock.now) + 10)
    with store.lease("acme", "one") as lease:
        clock.now += 10
        for ask in (store.get, store.lease, store.delete, store.versions, store.roll_back):
            with pytest.raises(AdapterNotFound):
                ask("acme", "one")
        assert store.list("acme") == []
        store.expire()
        # The whole name: an older version must not come back by itself.
        assert sources(tmp_path) == {lease.adapter.digest}
    assert actions(store)[-1] == ("adapter.expired", "one")
    assert put(store, 0).number == 1


def test_an_expired_version_that_is_not_served_goes_alone(
    store: AdapterStore, clock: Clock
) -> None:
    put(store, 0, expires_at=int(clock.now) + 10)
    put(store, 1)
    clock.now += 10
    with pytest.raises(VersionNotFound):
        store.roll_back("acme", "one", 1)
    store.expire()
    assert numbers(store) == [2]
    before = actions(store)
    store.expire()
    assert actions(store) == before


def test_a_name_that_has_expired_is_free(store: AdapterStore, clock: Clock) -> None:
    put(store, 0, expires_at=int(clock.now) + 10)
    clock.now += 10
    new = put(store, 1, condition=Condition(none_match=frozenset({ANY})))
    assert (new.number, numbers(store)) == (1, [1])


def test_an_end_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    put(store, 0, expires_at=int(clock.now) + 10)
    store.close()
    clock.now += 10
    store = opened(tmp_path, clock)
    assert store.list("acme") == []
    store.expire()
    assert sources(tmp_path) == set()
    store.close()


def test_conditions(store: AdapterStore) -> None:
    first = put(store, 0)
    is_first = Condition(match=frozenset({first.digest}))
    is_new = Condition(none_match=frozenset({ANY}))
    second = put(store, 1, condition=is_first)
    for change in (
        lambda: put(store, 2, condition=is_first),
        lambda: put(store, 2, condition=is_new),
        lambda: put(store, 2, "two", condition=is_first),
        lambda: put(store, 2, "two", condition=Condition(match=frozenset({ANY}))),
        lambda: put(store, 2, condition=Condition(none_match=frozenset({second.digest}))),
        lambda: store.roll_back("acme", "one", condition=is_first),
        lambda: store.delete("acme", "one", condition=is_first),
        lambda: store.delete_version("acme", "one", 1, condition=is_first),
    ):
        with pytest.raises(ConditionFailed):
            change()
    assert store.versions("acme", "one").all == (second, first)
    assert [adapter.name for adapter in store.list("acme")] == ["one"]
    assert put(store, 2, "two", condition=is_new).number == 1
    assert put(store, 0, condition=Condition(match=frozenset({ANY}))).number == 3


def test_of_many_that_replace_the_same_version_one_does(store: AdapterStore) -> None:
    first = put(store, 0)
    condition = Condition(match=frozenset({first.digest}))
    outcomes: list[str] = []

    def replace_it(upload: int) -> None:
        try:
            put(store, upload, condition=condition)
            outcomes.append("replaced")
        except ConditionFailed:
            outcomes.append("refused")

    threads = [threading.Thread(target=replace_it, args=(1 + n % 3,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["refused"] * 5 + ["replaced"]
    assert numbers(store) == [2, 1]


def test_quotas_are_asked_inside_the_publishing_transaction(tmp_path: Path, clock: Clock) -> None:
    asked: list[dict[str, object]] = []
    used: list[int] = []

    def require_room(connection: Connection, tenant: str, **what: object) -> None:
        used.append(len(connection.execute(select(audit.c.id)).all()))
        asked.append({"tenant": tenant, **what})
        if what["is_new_name"] and used[-1]:
            raise RuntimeError("no second name")

    store = AdapterStore(
        tmp_path,
        BASE,
        dtype=torch.float32,
        limits=Limits(),
        host_bytes=0,
        require_room=require_room,
        clock=clock,
    )
    first = put(store, 0)
    put(store, 0)  # no change asks for no room
    second = put(store, 1)
    with pytest.raises(RuntimeError):
        put(store, 2, "two")
    assert store.list("acme") == [second]
    assert sources(tmp_path) == {first.digest, second.digest}
    assert asked == [
        {
            "tenant": "acme",
            "source_bytes": first.source_bytes,
            "rank": 4,
            "is_new_name": is_new,
        }
        for is_new in (True, False, True)
    ]
    store.close()


@pytest.mark.parametrize("tags", [["a b"], ["-a"], [""], ["a" * 65], [str(n) for n in range(17)]])
def test_tags_outside_the_rule_are_refused(store: AdapterStore, tags: list[str]) -> None:
    with pytest.raises(InvalidTag):
        put(store, 0, tags=tags)
    assert store.list("acme") == []


def test_weights_are_found_within_their_tenant_only(store: AdapterStore) -> None:
    adapter = put(store, 0)
    sha = adapter.weights_sha256
    assert sha is not None
    assert adapter.weights_bytes == len(UPLOADS[0].weights_bytes)
    assert store.has_weights("acme", sha)
    assert not store.has_weights("other", sha)
    with store.stage() as staging:
        assert not store.reuse_weights("other", sha, staging)
        assert staging.num_bytes == 0
        assert store.reuse_weights("acme", sha, staging)
        assert staging.weights_sha256 == sha
        staging.write(CONFIG_FILE, UPLOADS[0].config_bytes)
        again = store.put("acme", "two", staging)
    assert again == replace(adapter, name="two")
    store.delete("acme", "one")
    assert store.has_weights("acme", sha)
    store.delete("acme", "two")
    assert not store.has_weights("acme", sha)


def test_pages(store: AdapterStore, clock: Clock) -> None:
    for name in ("c", "a", "d"):
        put(store, 0, name)
    put(store, 0, "b", expires_at=int(clock.now) + 1)
    clock.now += 1

    def names(after: str | None, limit: int | None) -> tuple[list[str], bool]:
        page, has_more = store.page("acme", after, limit)
        return [adapter.name for adapter in page], has_more

    assert names(None, 2) == (["a", "c"], True)
    assert names("c", 2) == (["d"], False)
    assert names("a", 2) == (["c", "d"], False)
    assert names("b", None) == (["c", "d"], False)
    assert names("zz", 5) == ([], False)
    assert store.page("other", None, 5) == ([], False)


def test_device_memory_of_a_deleted_adapter_is_back_with_its_last_user(
    store: AdapterStore,
) -> None:
    arena = Arena(store.image, num_bytes=1 << 20, num_slots=4, device=torch.device("cpu"))
    store.on_removed(arena.drop)
    first, second = put(store, 0), put(store, 1)
    leases = [store.lease("acme", "one")]
    store.roll_back("acme", "one")
    leases.append(store.lease("acme", "one"))
    slots = []
    for digest in (second.digest, first.digest):
        while (slot := arena.acquire(digest)) is None:
            pass
        slots.append(slot)
    store.delete("acme", "one")
    assert arena.stats().resident == 2
    for slot, lease, left in zip(slots, leases, (1, 0), strict=True):
        arena.release(slot)
        lease.release()
        store._collector.submit(lambda: None).result()  # what was submitted before has run
        assert arena.stats().resident == left
    assert arena.stats().used_bytes == 0
    arena.close()
