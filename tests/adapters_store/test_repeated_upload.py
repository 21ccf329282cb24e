"""What a tenant has published before is published again without being lowered; for others it is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from motet_adapters.lowering import Lowering
from motet_adapters.source import Lowered, Source

from tests.support.adapter_files import WEIGHTS_FILE
from tests.support.crashing_store import BASE, new_files, old_files, opened


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests that were, one after the other."""
    found: list[str] = []
    lower = Lowering.of

    def noted(self: Lowering, source: Source) -> Lowered:
        found.append(source.digest)
        return lower(self, source)

    monkeypatch.setattr(Lowering, "of", noted)
    return found


def test_by_the_same_tenant_it_is_lowered_once(tmp_path: Path, lowered: list[str]) -> None:
    store = opened(tmp_path)
    first = new_files().put(store)
    again = new_files().put(store, name="two")
    assert again == replace(first, name="two", created=again.created)
    assert new_files().put(store) == first
    assert lowered == [first.digest]
    store.close()
    store = opened(tmp_path)  # also by a later process, on the same base
    store.delete("acme", "one")
    assert new_files().put(store, name="three").num_parameters == first.num_parameters
    assert lowered == [first.digest]
    assert store.image(first.digest).digest == first.digest
    store.close()


def test_another_tenants_upload_saves_nobody_any_time(tmp_path: Path, lowered: list[str]) -> None:
    store = opened(tmp_path)
    digest = new_files().put(store).digest
    assert new_files().put(store, "other").digest == digest
    assert lowered == [digest, digest]
    store.delete("acme", "one")
    new_files().put(store)  # the tenant has none of its own any more
    assert lowered == [digest, digest, digest]
    store.close()


def test_without_its_image_it_is_lowered_again(tmp_path: Path, lowered: list[str]) -> None:
    store = opened(tmp_path)
    digest = new_files().put(store).digest
    store._disk.image_path(digest).unlink()
    new_files().put(store, name="two")
    assert lowered == [digest, digest]
    assert store._disk.image_path(digest).exists()
    store.close()


def test_limits_that_were_lowered_meanwhile_hold(tmp_path: Path) -> None:
    store = opened(tmp_path)
    new_files().put(store)
    store.close()
    limits = Limits(max_rank=2)
    store = AdapterStore(tmp_path, BASE, dtype=torch.float32, limits=limits, host_bytes=1 << 20)
    with pytest.raises(AdapterRefused, match="r is 4"):
        new_files().put(store, name="two")
    store.close()


def test_a_rotten_source_is_replaced_by_it(tmp_path: Path, lowered: list[str]) -> None:
    store = opened(tmp_path)
    adapter, _ = new_files().put(store), old_files().put(store, name="sound")
    path = tmp_path / "sources" / adapter.digest / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    new_files().put(store, name="two")
    assert store._disk.source(adapter.digest).is_intact()
    assert store.image(adapter.digest).digest == adapter.digest
    store.close()
