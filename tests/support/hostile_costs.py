"""What one piece of work costs this process, and what it must never do: run code, or open foreign
files. All threads are watched, since a server checks uploads on threads of its own."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

MAX_CPU_S = 2.0
MAX_EXTRA_BYTES = 300 << 20

# https://docs.python.org/3/library/audit_events.html
_CODE_EVENTS = frozenset(
    {
        *("pickle.find_class", "marshal.loads", "marshal.load", "compile", "exec"),
        *("code.__new__", "function.__new__", "os.system", "os.exec", "os.posix_spawn"),
        *("os.spawn", "os.startfile", "os.fork", "os.forkpty", "pty.spawn", "subprocess.Popen"),
        *("ctypes.dlopen", "urllib.Request"),
    }
)


@dataclass
class Costs:
    """cpu_s: of all threads. extra_bytes: highest resident memory above that at the beginning."""

    cpu_s: float = 0.0
    extra_bytes: int = 0
    code_events: list[str] = field(default_factory=list)
    opened: list[Path] = field(default_factory=list)

    def require_modest(self, root: Path) -> None:
        """Within the limits, no code run, and no file opened outside `root`."""
        assert self.cpu_s < MAX_CPU_S
        assert self.extra_bytes < MAX_EXTRA_BYTES
        assert self.code_events == []
        # A bare name is one that shutil.rmtree opens in the directory it has open.
        assert [
            path for path in self.opened if not path.is_relative_to(root) and len(path.parts) > 1
        ] == []


class _Watch:
    """The one audit hook of a process; hooks cannot be removed."""

    def __init__(self) -> None:
        self.costs: Costs | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        costs = self.costs
        if costs is None:
            return
        if event in _CODE_EVENTS:
            costs.code_events.append(f"{event} {ascii(arguments)[:200]}")
        elif event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            costs.opened.append(Path(os.fsdecode(arguments[0])))


@cache
def _watch() -> _Watch:
    return _Watch()


@contextmanager
def counted() -> Iterator[Costs]:
    """The costs of the block, complete when it ends. Linux only: it resets the memory's peak."""
    watch, costs = _watch(), Costs()
    Path("/proc/self/clear_refs").write_text("5")
    resident = _resident("VmRSS")
    begun = time.process_time()
    watch.costs = costs
    try:
        yield costs
    finally:
        watch.costs = None
        costs.cpu_s = time.process_time() - begun
        costs.extra_bytes = _resident("VmHWM") - resident


def _resident(which: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {which} in /proc/self/status")
