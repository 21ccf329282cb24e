"""Replace, delete, share and lease: what stays, what goes, and when."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterLoadFailed, AdapterNotFound, AdapterStore, Limits

from tests.support.adapter_files import put_bytes, random_adapter
from tests.support.base_weights import RandomBase

BASE = RandomBase.llama(layers=1)
UPLOADS = [
    (files.config_bytes, files.weights_bytes)
    for files in (random_adapter(BASE, seed=seed, dora=seed == 2) for seed in range(4))
]


def opened(root: Path) -> AdapterStore:
    return AdapterStore(
        root, BASE, dtype=torch.float32, limits=Limits(), host_bytes=3000, max_versions=1
    )


def put(store: AdapterStore, upload: int, tenant: str = "acme", name: str = "one") -> str:
    return put_bytes(store, *UPLOADS[upload], tenant, name).digest


def sources(root: Path) -> set[str]:
    return {path.name for path in (root / "sources").iterdir()}


def images(root: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in (root / "images").iterdir()}


def eventually_on_disk(root: Path, expected: set[str]) -> None:
    """The bytes of the last lease are removed by another thread, soon after."""
    deadline = time.monotonic() + 60
    while sources(root) != expected or images(root) != expected:
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    store = opened(tmp_path)
    yield store
    store.close()


def test_equal_bytes_change_nothing(store: AdapterStore, tmp_path: Path) -> None:
    first = put_bytes(store, *UPLOADS[0])
    time.sleep(1.1)
    assert put_bytes(store, *UPLOADS[0]) == first
    assert store.list("acme") == [first]


def test_a_name_is_repointed_and_the_old_bytes_go(store: AdapterStore, tmp_path: Path) -> None:
    old = put(store, 0)
    new = put(store, 1)
    assert old != new
    assert store.get("acme", "one").digest == new
    assert sources(tmp_path) == images(tmp_path) == {new}
    with pytest.raises(AdapterLoadFailed):
        store.image(old)


def test_a_lease_outlives_its_name(store: AdapterStore, tmp_path: Path) -> None:
    old = put(store, 0)
    first, second = store.lease("acme", "one"), store.lease("acme", "one")
    new = put(store, 1)
    with store.lease("acme", "one") as lease:
        assert lease.adapter.digest == new
    assert first.adapter.digest == old
    assert store.image(old).digest == old
    first.release()
    first.release()
    assert sources(tmp_path) == {old, new}
    second.release()
    eventually_on_disk(tmp_path, {new})


def test_delete_while_leased(store: AdapterStore, tmp_path: Path) -> None:
    digest = put(store, 0)
    lease = store.lease("acme", "one")
    store.delete("acme", "one")
    with pytest.raises(AdapterNotFound):
        store.lease("acme", "one")
    with pytest.raises(AdapterNotFound):
        store.delete("acme", "one")
    assert store.list("acme") == []
    assert store.image(digest).digest == digest
    lease.release()
    eventually_on_disk(tmp_path, set())


def test_a_deleted_name_comes_back_while_its_old_bytes_are_leased(
    store: AdapterStore, tmp_path: Path
) -> None:
    digest = put(store, 0)
    lease = store.lease("acme", "one")
    store.delete("acme", "one")
    assert put(store, 0) == digest
    lease.release()
    time.sleep(0.05)
    assert store.image(digest).digest == digest
    assert sources(tmp_path) == {digest}


def test_equal_bytes_of_two_tenants_are_stored_once(store: AdapterStore, tmp_path: Path) -> None:
    digest = put(store, 0, "acme")
    assert put(store, 0, "zeta", "two") == digest
    assert sources(tmp_path) == {digest}
    store.delete("acme", "one")
    assert sources(tmp_path) == {digest}
    assert store.get("zeta", "two").digest == digest
    store.delete("zeta", "two")
    assert sources(tmp_path) == images(tmp_path) == set()


def test_another_tenants_adapter_is_like_none(store: AdapterStore) -> None:
    put(store, 0)
    answers = []
    for tenant, name in (("zeta", "one"), ("acme", "two"), ("zeta", "../acme"), ("", "")):
        for ask in (store.get, store.lease, store.delete):
            with pytest.raises(AdapterNotFound) as caught:
                ask(tenant, name)
            answers.append((caught.value.code, caught.value.message.replace(ascii(name), "NAME")))
    assert set(answers) == {("adapter_not_found", "There is no adapter named NAME.")}


def test_leases_that_end_after_close_are_swept_at_the_next_start(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, 0)
    lease = store.lease("acme", "one")
    store.delete("acme", "one")
    store.close()
    store.close()
    lease.release()
    opened(tmp_path).close()
    assert sources(tmp_path) == set()


def test_names_and_order_survive_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    adapters = [put_bytes(store, *UPLOADS[n], "acme", name) for n, name in enumerate("cab")]
    store.close()
    store = opened(tmp_path)
    assert store.list("acme") == [adapters[1], adapters[2], adapters[0]]
    store.close()


def test_many_threads(tmp_path: Path) -> None:
    """Puts, deletes, leases and loads of the same few names from several threads at once."""
    store = opened(tmp_path)
    errors: list[BaseException] = []
    num_served = 0

    def work(seed: int) -> None:
        nonlocal num_served
        chance = random.Random(seed)
        try:
            for _ in range(40):
                name = chance.choice("xy")
                action = chance.random()
                if action < 0.4:
                    put(store, chance.randrange(4), name=name)
                    continue
                try:
                    if action < 0.5:
                        store.delete("acme", name)
                        continue
                    with store.lease("acme", name) as lease:
                        # A leased adapter can always be served, whatever happens to its name.
                        assert store.image(lease.adapter.digest).digest == lease.adapter.digest
                        num_served += 1
                except AdapterNotFound:
                    continue
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert num_served > 20
    eventually_on_disk(tmp_path, {adapter.digest for adapter in store.list("acme")})
    assert not list((tmp_path / "staging").iterdir())
    store.close()
