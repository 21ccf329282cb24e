"""Few combinations in which every two values meet."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Case = Mapping[str, Any]

_TRIES = 60


def pairwise(
    factors: Mapping[str, Sequence[Any]], allowed: Callable[[Case], bool]
) -> tuple[Case, ...]:
    """Combinations of one value a factor in which any two values of two factors meet once or more.

    Greedy: each further case is the best of some random ones that hold a pair not met yet. The
    same for the same arguments. `allowed` rules out whole cases, never all that hold some pair.
    """
    draw = random.Random(0)
    left = {
        ((first, a), (second, b))
        for first, second in combinations(factors, 2)
        for a, b in product(factors[first], factors[second])
    }
    cases = []
    while left:
        wanted = min(left, key=repr)
        drawn = [
            {name: draw.choice(values) for name, values in factors.items()} | dict(wanted)
            for _ in range(_TRIES)
        ]
        tries = [case for case in drawn if allowed(case)]
        if not tries:
            raise ValueError(f"no allowed case was found that holds {wanted}")
        best = max(tries, key=lambda case: len(left.intersection(_pairs(case))))
        left.difference_update(_pairs(best))
        cases.append(best)
    return tuple(cases)


def _pairs(case: Case) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    return combinations(case.items(), 2)
