"""Where some tokens stand among others."""

from __future__ import annotations

from collections.abc import Sequence


def last_occurrence(part: Sequence[int], whole: Sequence[int]) -> int | None:
    """The last index at which `part` (not empty) begins in `whole`; None: it is not there.

    Knuth, Morris and Pratt's search: one pass over both, whatever a tenant repeats in them.
    """
    # How many of the first tokens of `part` also end part[: i + 1], without being all of it.
    borders = [0] * len(part)
    num_equal = 0
    for index in range(1, len(part)):
        while num_equal and part[index] != part[num_equal]:
            num_equal = borders[num_equal - 1]
        num_equal += part[index] == part[num_equal]
        borders[index] = num_equal
    found, num_equal = None, 0
    for index, token in enumerate(whole):
        while num_equal and (num_equal == len(part) or token != part[num_equal]):
            num_equal = borders[num_equal - 1]
        num_equal += token == part[num_equal]
        if num_equal == len(part):
            found = index + 1 - len(part)
    return found
