from pathlib import Path

import pytest
import torch
from motet.engine import model as model_module
from motet.engine.memory import CPU_MOST, CUDA_SHARE, default_kv_bytes, free_host_bytes
from motet_kernels.cpu.cpu_ops import CpuOps

from tests.support.serving import served
from tests.support.tiny_models import make_checkpoint


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


def test_on_a_gpu_most_of_what_is_free_after_what_torch_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [5000]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(9000))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free[-1], 10000))
    cuda = torch.device("cuda", 0)
    assert default_kv_bytes(cuda, reserved=1000) == int(8000 * CUDA_SHARE)
    assert default_kv_bytes(cuda, reserved=20000) == 0


def test_what_is_free_is_asked_when_the_weights_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU that holds little more than them, a cache of what was free before has no room."""
    done = []
    pack = CpuOps.pack

    def packed(*arguments: object) -> object:
        done.append("weights")
        return pack(*arguments)  # type: ignore[arg-type]

    def asked(_device: torch.device, reserved: int) -> int:
        assert reserved == 3 << 20
        done.append("free memory")
        return 1 << 20

    monkeypatch.setattr(CpuOps, "pack", packed)
    monkeypatch.setattr(model_module, "default_kv_bytes", asked)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    options = {"kv_cache_bytes": None, "adapter_device_bytes": 3 << 20, "cpu_kernels": "torch"}
    with served(checkpoint, tmp_path / "data", **options) as runtime:
        assert 0 < runtime.kv_bytes <= 1 << 20
    assert done[-1] == "free memory"
    assert done.count("free memory") == 1
    assert done.count("weights") > 1
