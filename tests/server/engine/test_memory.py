from pathlib import Path

import torch
from motet.engine.memory import CPU_MOST, default_kv_bytes, free_host_bytes


def limit(directory: Path, most: str, used: str) -> Path:
    (directory / "memory.max").write_text(f"{most}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    return directory


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert free_host_bytes(limit(tmp_path, "1000000", "400000")) == 600000


def test_a_container_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert free_host_bytes(limit(tmp_path, "1000", "4000")) == 0


def test_without_a_limit_the_hosts_free_memory_counts(tmp_path: Path) -> None:
    assert free_host_bytes(limit(tmp_path, "max", "400000")) > 0
    assert free_host_bytes(tmp_path / "none") > 0


def test_the_cache_never_takes_more_than_its_most() -> None:
    cpu = torch.device("cpu")
    assert 0 <= default_kv_bytes(cpu, reserved=0) <= CPU_MOST
    assert default_kv_bytes(cpu, reserved=1 << 60) == 0
