from __future__ import annotations

import math
from collections import Counter
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from motet.engine.draw import draw, invert, largest, nucleus, uniform, weighted
from motet.engine.request import SamplingParams
from numpy.typing import NDArray

NEAR = 1e-5
"""Relative distance from a boundary under which float32 may fall on either side."""

# Small whole numbers: many ties, and sums without rounding, so sets can be compared exactly.
WHOLE = st.lists(st.integers(0, 8), min_size=1, max_size=700).filter(any)


def floats(values: list[int] | list[float]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def naive_largest(values: list[int], count: int) -> list[int]:
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


@given(WHOLE, st.integers(1, 800))
def test_largest_breaks_ties_by_position(values: list[int], count: int) -> None:
    mask = largest(floats(values), count)
    assert np.flatnonzero(mask).tolist() == naive_largest(values, count)


@given(WHOLE, st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_nucleus_is_the_smallest_set_that_holds_top_p(values: list[int], top_p: float) -> None:
    total = float(sum(values))
    count = next(
        n
        for n in range(1, len(values) + 1)
        if sum(sorted(values, reverse=True)[:n]) >= top_p * total
    )
    mask = nucleus(floats(values), top_p)
    assert np.flatnonzero(mask).tolist() == naive_largest(values, count)


@given(WHOLE, st.floats(0, 1, exclude_max=True))
def test_invert_finds_the_stretch_that_holds_u(values: list[int], u: float) -> None:
    passed = accumulate(values)
    index = next(i for i, value in enumerate(passed) if value > u * float(sum(values)))
    assert invert(floats(values), u) == index


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=600).filter(any))
def test_invert_never_lands_on_weight_zero(values: list[float]) -> None:
    for u in (0.0, 0.5, 1 - 2.0**-53):
        assert values[invert(floats(values), u)] > 0


def test_searches_stay_inside_when_sums_round_differently() -> None:
    """Weights over forty powers of e: the sum by blocks and the running one often disagree."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        weights = np.exp(generator.uniform(-40, 0, size=500)).astype(np.float32)
        weights[450:] = 0
        assert invert(weights, 1 - 2.0**-53) < 450
        kept = weights * nucleus(weights, 1 - 2.0**-53)
        assert kept.sum(dtype=np.float64) == pytest.approx(weights.sum(dtype=np.float64), rel=1e-12)


def reference(logits: list[float], params: SamplingParams) -> NDArray[np.float64]:
    """Probabilities by the definition, in float64; discards cases on a boundary."""
    scaled = np.array(logits, dtype=np.float64) / params.temperature
    p: NDArray[np.float64] = np.exp(scaled - scaled.max())
    p /= p.sum()
    if params.min_p > 0:
        assume(np.all(np.abs(p - params.min_p * p.max()) > NEAR * p.max()) or params.min_p == 1)
        p[p < params.min_p * p.max()] = 0
    order = sorted(range(len(p)), key=lambda i: (-logits[i], i))
    if params.top_k:
        p[order[params.top_k :]] = 0
    p /= p.sum()
    if params.top_p < 1:
        held = p[order].cumsum()
        assume(np.all(np.abs(held - params.top_p) > NEAR))
        p[order[int(np.searchsorted(held, params.top_p)) + 1 :]] = 0
    p /= p.sum()
    return p


# Logits a hundredth apart, or equal: distinct ones stay distinct in float32.
LOGITS = st.lists(st.integers(-1500, 1500).map(lambda n: n / 100), min_size=1, max_size=60)


@given(
    LOGITS,
    st.floats(0.05, 5),
    st.one_of(st.just(1.0), st.floats(0.01, 0.99)),
    st.one_of(st.just(0), st.integers(1, 70)),
    st.one_of(st.just(0.0), st.just(1.0), st.floats(0.001, 0.9)),
)
def test_weights_follow_the_definition(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    params = SamplingParams(
        max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p
    )
    expected = reference(logits, params)
    weights = weighted(floats(logits), params).astype(np.float64)
    np.testing.assert_allclose(weights / weights.sum(), expected, rtol=2e-3, atol=1e-9)


def test_the_extremes_of_temperature_do_not_overflow() -> None:
    logits = floats([3.0e38, 0.0, -3.0e38, -math.inf])
    for temperature in (1e-5, 1e30):
        params = SamplingParams(max_tokens=1, temperature=temperature, top_p=0.9)
        assert draw(logits, params, 0.0) == 0


def test_top_k_of_one_is_greedy_even_where_probabilities_round_to_equal() -> None:
    params = SamplingParams(max_tokens=1, temperature=100.0, top_k=1)
    logits = floats([1.0, 1.0 + 2**-20, 1.0])
    assert draw(logits, params, 0.99) == 1


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_draws_have_the_distribution_of_the_weights(temperature: float) -> None:
    """Chi-square over fixed seeds, so the outcome is fixed too."""
    logits = floats([0.0, 1.0, 2.0, 2.5, -1.0, 0.5, 1.5, 3.0])
    params = SamplingParams(max_tokens=1, temperature=temperature)
    expected = reference(logits.tolist(), params)
    num_draws = 20_000
    for seeds_and_positions in (
        [(seed, 0) for seed in range(num_draws)],  # many requests, their first token
        [(12345, position) for position in range(num_draws)],  # one long request
    ):
        seen = Counter(draw(logits, params, uniform(*pair)) for pair in seeds_and_positions)
        counts = np.array([seen[i] for i in range(len(logits))])
        chi_square = ((counts - num_draws * expected) ** 2 / (num_draws * expected)).sum()
        freedom = len(logits) - 1
        assert chi_square < freedom + 4 * math.sqrt(2 * freedom)


def test_uniform_is_a_fixed_function_in_its_range() -> None:
    values = [uniform(seed, position) for seed in (-(2**63), -1, 0, 1) for position in range(64)]
    assert all(0 <= value < 1 for value in values)
    assert len(set(values)) == len(values)
    # Written down once: a change would give every seeded request other tokens.
    assert (uniform(0, 0), uniform(-7, 3)) == (0.0564663990004608, 0.8641840335446714)
