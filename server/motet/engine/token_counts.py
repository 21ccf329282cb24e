"""What a sequence has said so far, as the penalties need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class TokenCounts:
    """The distinct tokens of one sequence, and how often each was generated.

    `add` only appends; the sparse arrays are brought up to date when a penalty asks for them,
    with work in the number of tokens added since. A request without penalties pays nothing.
    Rebuilt after a preemption from the same tokens it gives the same penalties.
    """

    def __init__(self, prompt: Sequence[int], generated: Iterable[int] = ()) -> None:
        self._prompt = prompt
        self._generated = list(generated)
        self._num_counted = 0
        self._index: dict[int, int] = {}
        self._ids = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)

    @property
    def num_generated(self) -> int:
        return len(self._generated)

    def add(self, token_id: int) -> None:
        """Take note of a generated token."""
        self._generated.append(token_id)

    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(ids, counts): every distinct token of prompt and output, and how often it was
        generated (0: only in the prompt). Views, valid until the next call."""
        if not self._index:
            self._open(list(dict.fromkeys(self._prompt)))
        for token_id in self._generated[self._num_counted :]:
            if token_id not in self._index:
                self._open([token_id])
            self._counts[self._index[token_id]] += 1
        self._num_counted = len(self._generated)
        size = len(self._index)
        return self._ids[:size], self._counts[:size]

    def _open(self, new_ids: list[int]) -> None:
        """Give ids that were not seen before a place, doubling the arrays when they are full."""
        start = len(self._index)
        stop = start + len(new_ids)
        if stop > len(self._ids):
            grow = max(stop, 2 * len(self._ids), 64) - len(self._ids)
            self._ids = np.pad(self._ids, (0, grow))
            self._counts = np.pad(self._counts, (0, grow))
        self._ids[start:stop] = new_ids
        self._index.update(zip(new_ids, range(start, stop), strict=True))
