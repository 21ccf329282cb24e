"""Cores that a cgroup's quota leaves, from files as the kernel writes them."""

import os
from pathlib import Path

import pytest
from motet.engine.cores import usable_cores

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = """\
31 23 0:27 / /sys/fs/cgroup/cpuset rw,nosuid - cgroup cgroup rw,cpuset
32 23 0:28 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
25 1 0:5 / /dev rw shared:2 - devtmpfs devtmpfs rw"""


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def machine(root: Path, mounts: str, cgroup: str, **files: str) -> Path:
    """`files`: path below /sys/fs/cgroup, with __ for / and a dot left out of "cpu." -> content."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(f"{mounts}\n")
    (root / "proc/self/cgroup").write_text(f"{cgroup}\n")
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 64),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("9000000 100000", 64),
        ("nonsense", 64),
        ("", 64),
        ("100000 0", 64),
    ],
)
def test_version_2_in_a_namespace(tmp_path: Path, quota: str, cores: int) -> None:
    assert usable_cores(machine(tmp_path, V2_MOUNT, "0::/", cpu_max=quota)) == cores


def test_the_tightest_of_a_group_and_its_parents_holds(tmp_path: Path) -> None:
    files = {
        "cpu_max": "900000 100000",  # above all of them
        "pods__cpu_max": "400000 100000",
        "pods__one__cpu_max": "max 100000",
        "pods__other__cpu_max": "100000 100000",
    }
    assert usable_cores(machine(tmp_path, V2_MOUNT, "0::/pods/one", **files)) == 4


@pytest.mark.parametrize(("quota", "cores"), [("-1", 64), ("350000", 4), ("1000", 1)])
@pytest.mark.parametrize("path", ["/", "/docker/abc"])
def test_version_1_without_a_namespace(tmp_path: Path, path: str, quota: str, cores: int) -> None:
    directory = tmp_path / "sys/fs/cgroup/cpu,cpuacct"
    directory.mkdir(parents=True)
    (directory / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (directory / "cpu.cfs_period_us").write_text("100000\n")
    machine(tmp_path, V1_MOUNTS, f"5:cpuset:{path}\n4:cpu,cpuacct:{path}")
    assert usable_cores(tmp_path) == cores


def test_a_quota_of_another_controller_is_none(tmp_path: Path) -> None:
    root = machine(tmp_path, V2_MOUNT, "1:name=systemd:/one", one__cpu_max="100000 100000")
    assert usable_cores(root) == 64


def test_affinity_may_be_tighter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores(machine(tmp_path, V2_MOUNT, "0::/", cpu_max="200000 100000")) == 1


def test_without_such_files(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 64


def test_on_this_machine() -> None:
    assert 1 <= usable_cores() <= 64
