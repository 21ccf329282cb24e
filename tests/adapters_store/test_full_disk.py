"""A disk that is really full, at every page an upload needs: refused whole, and later it works."""

from pathlib import Path

import pytest
from motet_adapters import AdapterStore, StoreFull, StoreUnusable

from tests.support.crashing_store import new_files, old_files, opened
from tests.support.disk_state import disk_state
from tests.support.small_disk import leave, release, small_disk

_DISK_BYTES = 8 << 20


def refusal(store: AdapterStore) -> bool:
    try:
        new_files().put(store)
    except StoreFull:
        return True
    return False


def state_without_ballast(root: Path) -> object:
    files, rows = disk_state(root)
    files.pop("ballast", None)
    return files, rows


@pytest.mark.slow
def test_no_page_too_few_is_noticed_too_late(tmp_path: Path) -> None:
    with small_disk(tmp_path, _DISK_BYTES) as root:
        store = opened(root)
        old = old_files().put(store)
        before = state_without_ballast(root)
        pages = 0
        leave(root, pages)
        while refusal(store):
            assert state_without_ballast(root) == before
            with store.lease("acme", "one") as lease:
                assert lease.adapter == old
                assert store.image(old.digest).digest == old.digest
            pages += 1
            leave(root, pages)
        assert 5 < pages < 200
        assert store.get("acme", "one").kind == "dora"
        release(root)
        again = old_files().put(store)
        assert again.digest == old.digest
        store.close()
        store = opened(root)
        assert store.get("acme", "one").digest == old.digest
        assert store.image(old.digest).digest == old.digest
        store.close()


@pytest.mark.slow
def test_a_store_that_can_not_open_on_a_full_disk_says_so_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path, _DISK_BYTES) as root:
        store = opened(root)
        old = old_files().put(store)
        store.close()
        leave(root, 0)
        # SQLite's write-ahead log needs a few pages to begin with.
        with pytest.raises(StoreUnusable, match="room on its disk"):
            opened(root)
        release(root)
        store = opened(root)
        assert store.image(old.digest).digest == old.digest
        assert not refusal(store)
        store.close()
