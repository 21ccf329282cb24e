"""The random choice of one token from one row of logits.

Everything here sees one row, as numpy arrays on one thread: a row is chosen by the same
operations in the same order whoever shares the batch, so its bits cannot depend on them.
(torch's reductions are split over threads by the shape of the whole batch.)
"""

from __future__ import annotations

import hashlib
import struct
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from motet.engine.request import SamplingParams

BLOCK_LEN = 256
"""Weights summed at once when a cumulative sum is searched."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, a function of `seed` and `position` alone.

    `position` counts a request's generated tokens from 0. There is no generator whose state
    could be lost or shared: the draw is BLAKE2b of the two numbers, so it is the same alone, in
    any batch, after a preemption and on another machine, and draws of neighbouring seeds or
    positions have nothing to do with one another.
    """
    digest = hashlib.blake2b(struct.pack("<qq", seed, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def draw(logits: Floats, params: SamplingParams, u: float) -> int:
    """The token that `u` in [0, 1) picks from logits [V], of which the largest is finite.

    Found by inverting the cumulative distribution in the order of token ids.
    """
    return invert(weighted(logits, params), u)


def weighted(logits: Floats, params: SamplingParams) -> Floats:
    """logits [V] -> weights [V], as the probabilities are: 0 for a token that is not to be drawn.

    Temperature, min_p, top_k, top_p, in this order, each on what the one before it left: min_p
    compares with the most probable token, top_p is a share of what is left after top_k.
    `params` must not be greedy, the largest logit must be finite.
    """
    with np.errstate(over="ignore"):  # a low temperature sends the unlikely to -inf: weight 0
        scaled = (logits - logits.max()) / np.float32(params.temperature)
    weights: Floats = np.exp(scaled)  # the largest is 1
    if params.min_p > 0:
        weights *= weights >= np.float32(params.min_p)
    if params.top_k:  # commutes with min_p; by logits, as exp makes equals of close neighbours
        weights *= largest(scaled, params.top_k)
    if params.top_p < 1:
        weights *= nucleus(weights, params.top_p)
    return weights


def largest(values: Floats, count: int) -> Mask:
    """Which are the `count` largest values (at least 1); of equal ones those that come first."""
    if count >= len(values):
        return np.ones(len(values), dtype=np.bool_)
    rank = len(values) - count
    return _from_cut(values, np.partition(values, rank)[rank], count)


def nucleus(weights: Floats, top_p: float) -> Mask:
    """Which are the fewest largest weights that hold at least `top_p` of the sum.

    Only what can be among them is sorted: weights under (1 - top_p) * sum / n are together less
    than (1 - top_p) of the sum, so the others suffice.
    """
    total = weights.sum(dtype=np.float64)
    floor = np.float32(0.99 * (1 - top_p) * total / len(weights))  # 0.99: whatever was rounded
    ranked = np.sort(weights.compress(weights >= floor))[::-1]
    last = _crossing(ranked, _block_sums(ranked), top_p * total, "left")
    return _from_cut(weights, ranked[last], last + 1)


def invert(weights: Floats, u: float) -> int:
    """The index whose stretch of the cumulative sum of `weights` holds u times the sum.

    weights >= 0 with a positive sum, u in [0, 1). Never an index of weight zero.
    """
    sums = _block_sums(weights)
    return _crossing(weights, sums, u * sums[-1], "right")


def _from_cut(values: Floats, cut: np.float32, count: int) -> Mask:
    """Which are the `count` largest, `cut` being the smallest of them."""
    mask: Mask = values >= cut
    surplus = int(np.count_nonzero(mask)) - count
    if surplus:
        mask[np.flatnonzero(values == cut)[-surplus:]] = False
    return mask


def _block_sums(weights: Floats) -> Doubles:
    """The cumulative sum in float64 at the end of every block of BLOCK_LEN weights."""
    starts = np.arange(0, len(weights), BLOCK_LEN)
    sums: Doubles = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()
    return sums


def _crossing(weights: Floats, sums: Doubles, target: float, side: Literal["left", "right"]) -> int:
    """The first index at which the cumulative sum reaches ("left") or passes ("right") `target`.

    `sums` are the block sums of `weights`, which are >= 0 with a positive sum. Where rounding
    puts the target past the end, of all or of its block, the last positive weight is taken.
    """
    block = int(min(sums.searchsorted(target, side), sums.searchsorted(sums[-1])))
    start = block * BLOCK_LEN
    inner = weights[start : start + BLOCK_LEN].cumsum(dtype=np.float64)
    rest = target - (sums[block - 1] if block else 0.0)
    return start + int(min(inner.searchsorted(rest, side), inner.searchsorted(inner[-1])))
