"""Ten thousand adapters: what is kept of each, and what is read for a page. Times and memory are
measured in benchmarks/many_adapters.py."""

import tracemalloc
from pathlib import Path

import torch
from motet_adapters import AdapterStore, Limits
from motet_database import Database
from motet_database.tables import adapters, blobs, versions
from sqlalchemy import insert

from tests.support.base_weights import RandomBase

BASE = RandomBase.llama(layers=1)
COUNT = 10_000
BYTES_PER_ADAPTER = 5_000


def filled(root: Path, count: int) -> None:
    """The rows of that many uploads of one tenant, and files of their sizes."""
    opened(root).close()
    database = Database.at_path(root / "motet.sqlite3")
    numbers = range(count)
    names = [f"adapter-{number:05}" for number in numbers]
    digests = [f"{number:064x}" for number in numbers]
    place = {"tenant": "acme", "created": 1}
    with database.write() as connection:
        connection.execute(
            insert(blobs),
            [
                {
                    "digest": digest,
                    "state": "live",
                    "state_since": 1,
                    "kind": "lora",
                    "ranks": [16],
                    "matched": {"q_proj": 30, "k_proj": 30, "v_proj": 30, "o_proj": 30},
                    "warnings": [],
                    "num_parameters": 1000,
                    "source_bytes": 2,
                    "image_bytes": 2000,
                    "weights_sha256": digest[::-1],
                    "weights_bytes": 1,
                }
                for digest in digests
            ],
        )
        connection.execute(
            insert(adapters), [{**place, "name": n, "current": 1, "last_number": 1} for n in names]
        )
        connection.execute(
            insert(versions),
            [
                {**place, "name": name, "number": 1, "digest": digest, "tags": []}
                for name, digest in zip(names, digests, strict=True)
            ],
        )
    database.close()
    for digest in digests:
        directory = root / "sources" / digest
        directory.mkdir()
        (directory / "adapter_config.json").write_bytes(b"{")
        (directory / "adapter_model.safetensors").write_bytes(b"}")


def opened(root: Path) -> AdapterStore:
    return AdapterStore(root, BASE, dtype=torch.float32, limits=Limits(), host_bytes=0)


def test_ten_thousand_adapters(tmp_path: Path) -> None:
    filled(tmp_path, COUNT)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    store = opened(tmp_path)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < COUNT * BYTES_PER_ADAPTER
    assert len(store) == COUNT
    names: list[str] = []
    has_more = True
    while has_more:
        page, has_more = store.page("acme", names[-1] if names else None, 1000)
        assert len(page) == 1000
        names += [adapter.name for adapter in page]
    assert names == [f"adapter-{number:05}" for number in range(COUNT)]
    assert store.has_weights("acme", f"{7:064x}"[::-1])
    with store.lease("acme", "adapter-09999") as lease:
        assert lease.adapter.digest == f"{9999:064x}"
    store.close()
