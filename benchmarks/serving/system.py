"""What a measured system is to whoever measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Batch:
    """Requests that are sent at the same moment: greedy, end tokens ignored."""

    prompts: Sequence[Sequence[int]]
    adapters: Sequence[str | None]
    """One for each prompt; None: the base."""
    num_tokens: int
    """To generate for each prompt."""


@dataclass(frozen=True)
class Run:
    """What became of a batch."""

    num_tokens: int
    seconds: float
    """From the first request sent to the last answer complete."""


class Refused(Exception):
    """A system does not serve this batch; the message is its own reason."""


class System(Protocol):
    """A system in processes of its own. They stand still, stopped by a signal, but while it starts
    or answers: no pool of threads may spin beside another system."""

    name: str

    def start(self, adapters: Sequence[str]) -> str:
        """Starts the processes, hands them the adapters, and says what runs: versions, kernels.

        An adapter that is not taken is refused when it is asked for.
        """

    def run(self, batch: Batch) -> Run:
        """Answers the batch. Raises Refused."""

    def close(self) -> None:
        """Ends the processes."""
