"""How many cores this process may keep busy, and which of its threads get how many."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch


def compute_with(num_threads: int) -> None:
    """Let the calling thread's tensor work use so many threads, whatever other threads set.

    torch keeps the number for each thread, and each thread has a team of its own.
    """
    torch.get_num_threads()  # a thread's first call takes over what was set last, anywhere
    torch.set_num_threads(num_threads)


def usable_cores(root: Path = Path("/")) -> int:
    """The cores this process may use, not the machine's; at least 1.

    A container that may use 2 cores of 64 sees all 64 and is stopped for most of each period when
    it uses them. Its quota is rounded up: 1.5 cores are worth two threads.
    root: where /proc and /sys are.
    """
    cores = len(os.sched_getaffinity(0))
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """The quota, in cores, of each control group that holds this process and has one.

    A group's parents hold it too. Version 2: "MICROSECONDS PERIOD" or "max PERIOD" in cpu.max
    (docs.kernel.org, admin-guide/cgroup-v2). Version 1: cpu.cfs_quota_us, -1 for none, and
    cpu.cfs_period_us (docs.kernel.org, scheduler/sched-bwc).
    """
    for group in _groups(root):
        words = _words(group / "cpu.max")
        words = words or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])


def _groups(root: Path) -> Iterator[Path]:
    """The directories of the control groups that may have a CPU quota for this process.

    A container without a cgroup namespace is told its path on the host, but finds its own group
    mounted as the root: so directories that are not there are passed over.
    """
    for mount in _lines(root / "proc/self/mountinfo"):
        # man 5 proc: ... root, mount point, ..., "-", type, source, options
        fields, _, described = mount.partition(" - ")
        kind, _, options = described.split(" ", 2)
        is_v2 = kind == "cgroup2"
        if not is_v2 and not (kind == "cgroup" and "cpu" in options.split(",")):
            continue
        top = root / fields.split(" ")[4].lstrip("/")
        for line in _lines(root / "proc/self/cgroup"):
            _, controllers, path = line.split(":", 2)
            if (controllers == "") if is_v2 else ("cpu" in controllers.split(",")):
                group = top / path.lstrip("/")
                yield from (each for each in (group, *group.parents) if each.is_relative_to(top))


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # no such file, or hidden from us: it limits nothing that we know of
        return []
