"""A process group that can be stopped, continued and ended as one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_STOP_TIMEOUT_S = 30.0


class Child:
    """A command and all it starts. What it says on stderr, and on stdout unless that is piped,
    goes to `log`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        piped: bool = False,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def check_alive(self) -> None:
        """Raises RuntimeError with the end of the log if the process is gone."""
        if self._process.poll() is not None:
            raise RuntimeError(f"a system ended; the end of {self.log}:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    @contextmanager
    def running(self) -> Iterator[None]:
        """The processes run for the length of a `with` block, and stand still after it."""
        os.killpg(self._process.pid, signal.SIGCONT)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGSTOP)

    def close(self) -> None:
        """Asks the leader to end; what is left of the group after that is killed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def plain_environment() -> dict[str, str]:
    """This process's environment without what would set a measured system up by accident."""
    unwanted = ("MOTET_", "OMP_", "KMP_", "MKL_", "VLLM_", "LD_PRELOAD")
    return {k: v for k, v in os.environ.items() if not k.upper().startswith(unwanted)}
