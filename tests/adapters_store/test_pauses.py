"""An upload gives way to what is more urgent, between two modules."""

from pathlib import Path

from tests.support.crashing_store import new_files, opened


def test_it_pauses_before_each_module_and_asks_each_time(tmp_path: Path) -> None:
    store = opened(tmp_path)
    pauses: list[int] = []
    store.pause_with(lambda: pauses.append(1))
    adapter = new_files().put(store)
    assert len(pauses) == sum(adapter.matched.values())
    store._disk.image_path(adapter.digest).unlink()
    store.image(adapter.digest)  # a request waits for it: nothing to give way to
    assert len(pauses) == sum(adapter.matched.values())
    store.close()
