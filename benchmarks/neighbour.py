"""A client that streams one answer after the other, and the times between its tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import httpx

PROMPT = "A baker gets up early in the morning because"
TIMEOUT_S = 120.0

Gap = tuple[float, float]
"""(beginning, end) of the time between two tokens of one answer, monotonic seconds."""


@dataclass
class Neighbour:
    """Streams completions from one model until told to stop; times of all its tokens."""

    url: str
    model: str
    stop: threading.Event
    headers: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int = 400
    answers: list[list[float]] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)  # when each answer was asked for

    def run(self) -> None:
        with httpx.Client(
            base_url=self.url, headers=dict(self.headers), timeout=TIMEOUT_S
        ) as client:
            while not self.stop.is_set():
                self.begun.append(time.monotonic())
                self.answers.append([])
                self._stream(client, self.answers[-1])

    def gaps(self) -> list[Gap]:
        return [gap for times in self.answers for gap in pairwise(times)]

    def first_tokens(self) -> list[Gap]:
        """(asked for, first token) of each answer."""
        return [
            (begun, times[0])
            for begun, times in zip(self.begun, self.answers, strict=True)
            if times
        ]

    def _stream(self, client: httpx.Client, times: list[float]) -> None:
        asked = body(self.model, max_tokens=self.max_tokens)
        with client.stream("POST", "/v1/completions", json=asked) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if is_token(line):
                    times.append(time.monotonic())
                if self.stop.is_set():
                    return


@contextmanager
def running(neighbours: Sequence[Neighbour], stop: threading.Event) -> Iterator[None]:
    """All of them stream while the block runs."""
    threads = [threading.Thread(target=neighbour.run) for neighbour in neighbours]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def body(model: str, max_tokens: int) -> dict[str, object]:
    return {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }


def is_token(line: str) -> bool:
    return line.startswith("data: {") and '"choices"' in line


@dataclass(frozen=True)
class Gaps:
    """Seconds between two tokens."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, gaps: Sequence[Gap]) -> Gaps:
        lengths = sorted(end - begin for begin, end in gaps) or [float("nan")]
        middle, late = (lengths[int(share * (len(lengths) - 1))] for share in (0.5, 0.99))
        return cls(len(gaps), middle, late, lengths[-1])
