"""The loads: how many requests at once, over which adapters."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NUM_REQUESTS = (1, 8, 32)
NUM_ADAPTERS = (0, 1, 8, 32)
MIXED_ADAPTERS = 8
"""Distinct adapters of the load that is half DoRA, half LoRA."""

# Ordinary words of every vocabulary met so far; the first ids are often special tokens.
_FIRST_ID, _LAST_ID = 100, 30_000


@dataclass(frozen=True)
class Load:
    """Requests that arrive together, spread evenly over distinct adapters."""

    num_requests: int
    num_adapters: int
    """0: all for the base."""
    num_dora: int = 0
    """How many of those are DoRA; the others are LoRA."""

    def __str__(self) -> str:
        if self.num_adapters == 0:
            return "none"
        if self.num_dora:
            return f"{self.num_adapters - self.num_dora} LoRA + {self.num_dora} DoRA"
        return f"{self.num_adapters} LoRA"

    def adapters(self) -> list[str | None]:
        """Each request's adapter; None: the base."""
        if self.num_adapters == 0:
            return [None] * self.num_requests
        names = [f"dora-{index}" for index in range(self.num_dora)]
        names += [f"lora-{index}" for index in range(self.num_adapters - self.num_dora)]
        return [names[index % len(names)] for index in range(self.num_requests)]


@dataclass(frozen=True)
class Answers:
    """How long the prompts and answers of every request are, in tokens."""

    prompt_len: int
    num_tokens: int


def loads(num_requests: Sequence[int], num_adapters: Sequence[int]) -> Iterator[Load]:
    """Every pair with at least as many requests as adapters, and the mixed one where that fits."""
    for requests in num_requests:
        for adapters in num_adapters:
            if adapters <= requests:
                yield Load(requests, adapters)
            if adapters == MIXED_ADAPTERS <= requests:
                yield Load(requests, adapters, num_dora=MIXED_ADAPTERS // 2)


def adapter_names(wanted: Sequence[Load]) -> list[str]:
    """The adapters that these loads name, each once."""
    return sorted({name for load in wanted for name in load.adapters() if name is not None})


def random_prompts(count: int, length: int, seed: str) -> list[list[int]]:
    """Token ids that no server has seen under another seed: a prefix cache has nothing to give."""
    generator = random.Random(seed)
    return [[generator.randint(_FIRST_ID, _LAST_ID) for _ in range(length)] for _ in range(count)]
