"""A load to try an engine with: requests that arrive together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from motet_adapters import Adapter

from motet.engine.request import Request, SamplingParams


@dataclass(frozen=True)
class Load:
    """Raises ValueError for a load with more adapters than requests."""

    num_requests: int
    num_adapters: int  # spread evenly over the requests; 0: all are for the base
    rank: int
    prompt_len: int  # tokens of each prompt
    num_tokens: int  # to be generated for each
    temperature: float

    def __post_init__(self) -> None:
        if self.num_adapters > self.num_requests:
            raise ValueError(
                f"{self.num_requests} requests cannot use {self.num_adapters} adapters; ask for "
                "more requests or fewer adapters"
            )

    def requests(self, adapters: Sequence[Adapter], vocab_size: int, tenant: str) -> list[Request]:
        """The same random prompts each time; request i runs on adapter i, over and over.

        adapters: the load's, or none to ask the same of the base. No request ends before its last
        token, whatever the model says.
        """
        generator = random.Random(0)
        return [
            Request(
                id=f"load-{index}",
                prompt=tuple(generator.randrange(vocab_size) for _ in range(self.prompt_len)),
                params=SamplingParams(
                    self.num_tokens, self.temperature, seed=index, ignore_eos=True
                ),
                adapter=adapters[index % len(adapters)] if adapters else None,
                tenant=tenant,
            )
            for index in range(self.num_requests)
        ]
