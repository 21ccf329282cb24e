"""Triton: one token of each row of logits, a program a row, so that no row feels another.

A logit is looked at as its distance d >= 0 from the row's largest, in units of the temperature:
its weight is exp(-d), and the bits of d, as an integer, are in the order of d. So "the k largest"
and "the fewest that hold top_p of the sum" are a cut through integers, found by bisection with one
pass over the row for each of 31 bits, without sorting; of those that lie on the cut itself, the
first by id are kept. Sums are of float64.
"""

# Triton reads a kernel's annotations as its own types, so mypy's have no place here.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from motet_kernels.host_copy import copied_to
from motet_kernels.sampling import Draw

BLOCK = 4096
NUM_WARPS = 16

_COLUMNS = tl.constexpr(len(Draw._fields))
_INFINITY = tl.constexpr(0x7F800000)  # the bits of d = infinity
_NOBODY = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _block(row, start, vocab, best, temperature, min_p, BLOCK: tl.constexpr):
    """The ids from `start` on: which there are, their distances' bits, their weights."""
    i = start + tl.arange(0, BLOCK)
    logits = tl.load(row + i, mask=i < vocab, other=-float("inf")).to(tl.float32)
    distance = (best - logits) / temperature
    weight = tl.exp(-distance)
    weight = tl.where((weight >= min_p) & (i < vocab), weight, 0.0)
    return i < vocab, distance.to(tl.int32, bitcast=True), weight.to(tl.float64)


@triton.jit
def _up_to(cut, row, vocab, best, temperature, min_p, BLOCK: tl.constexpr):
    """How many ids lie at the cut or nearer, and the sum of their weights."""
    count, total = 0, tl.full((), 0.0, tl.float64)
    for start in range(0, vocab, BLOCK):
        is_id, bits, weight = _block(row, start, vocab, best, temperature, min_p, BLOCK)
        is_near = is_id & (bits <= cut)
        count += tl.sum(is_near.to(tl.int32), 0)
        total += tl.sum(tl.where(is_near, weight, 0.0), 0)
    return count, total


@triton.jit
def _nearest_cut(count, total, last, row, vocab, best, temperature, min_p, BLOCK: tl.constexpr):
    """The nearest cut up to which there are `count` ids and `total` weight; else `last`."""
    low, high = last * 0, last
    while low < high:
        middle = low + (high - low) // 2
        found, found_total = _up_to(middle, row, vocab, best, temperature, min_p, BLOCK)
        is_enough = (found >= count) & (found_total >= total)
        high = tl.where(is_enough, middle, high)
        low = tl.where(is_enough, low, middle + 1)
    return high


@triton.jit
def _kept(cut, ties, seen, row, start, vocab, best, temperature, min_p, BLOCK: tl.constexpr):
    """A block's weights, zero beyond the cut and for ids on it after the first `ties`; how many on
    it there have been, `seen` being those of the blocks before."""
    is_id, bits, weight = _block(row, start, vocab, best, temperature, min_p, BLOCK)
    is_tie = is_id & (bits == cut)
    number = seen + tl.cumsum(is_tie.to(tl.int32), 0)
    is_kept = is_id & ((bits < cut) | (is_tie & (number <= ties)))
    return tl.where(is_kept, weight, 0.0), seen + tl.sum(is_tie.to(tl.int32), 0)


@triton.jit
def choose_kernel(
    logits,  # [R, V]
    draws,  # float64 [R, 5]: sampling.Draw
    chosen,  # int64 [R]
    vocab,
    row_stride,
    BLOCK: tl.constexpr,
):
    """chosen[r] = `SamplingOps.choose` of row r. Grid (R,)."""
    row = logits + tl.program_id(0).to(tl.int64) * row_stride
    draw = draws + tl.program_id(0) * _COLUMNS
    best, best_id, is_bad = -float("inf"), _NOBODY, 0
    for start in range(0, vocab, BLOCK):
        i = start + tl.arange(0, BLOCK)
        values = tl.load(row + i, mask=i < vocab, other=-float("inf")).to(tl.float32)
        is_bad += tl.sum(((values != values) | (values == float("inf"))).to(tl.int32), 0)
        block_best = tl.max(values, 0)
        first = tl.min(tl.where((values == block_best) & (i < vocab), i, _NOBODY), 0)
        best_id = tl.where(block_best > best, first, best_id)
        best = tl.maximum(best, block_best)
    if (is_bad > 0) | (best == -float("inf")):
        tl.store(chosen + tl.program_id(0), -1)
        return
    temperature = tl.load(draw).to(tl.float32)
    if temperature == 0.0:
        tl.store(chosen + tl.program_id(0), best_id)
        return
    min_p = tl.load(draw + 1).to(tl.float32)
    top_k = tl.load(draw + 2).to(tl.int32)
    top_p = tl.load(draw + 3)
    cut, ties = tl.full((), _INFINITY, tl.int32), vocab
    if (top_k > 0) & (top_k < vocab):
        cut = _nearest_cut(top_k, -1.0, cut, row, vocab, best, temperature, min_p, BLOCK)
        nearer, _ = _up_to(cut - 1, row, vocab, best, temperature, min_p, BLOCK)
        ties = top_k - nearer
    if top_p < 1.0:
        nearer, nearer_total = _up_to(cut - 1, row, vocab, best, temperature, min_p, BLOCK)
        within, _ = _up_to(cut, row, vocab, best, temperature, min_p, BLOCK)
        weight = _weight(cut, min_p)
        wanted = top_p * (nearer_total + weight * tl.minimum(ties, within - nearer))
        top_k_cut = cut
        cut = _nearest_cut(0, wanted, top_k_cut, row, vocab, best, temperature, min_p, BLOCK)
        _, nearer_total = _up_to(cut - 1, row, vocab, best, temperature, min_p, BLOCK)
        weight = tl.maximum(_weight(cut, min_p), 1e-300)
        needed = tl.minimum(tl.ceil((wanted - nearer_total) / weight), 1e9).to(tl.int32)
        needed = tl.maximum(needed, 1)
        ties = tl.where(cut == top_k_cut, tl.minimum(ties, needed), needed)
    total, seen = tl.full((), 0.0, tl.float64), 0
    for start in range(0, vocab, BLOCK):
        weights, seen = _kept(
            cut, ties, seen, row, start, vocab, best, temperature, min_p, BLOCK
        )  # fmt: skip
        total += tl.sum(weights, 0)
    target = tl.load(draw + 4) * total
    passed, seen, token, last = tl.full((), 0.0, tl.float64), 0, _NOBODY, best_id
    for start in range(0, vocab, BLOCK):
        weights, seen = _kept(
            cut, ties, seen, row, start, vocab, best, temperature, min_p, BLOCK
        )  # fmt: skip
        i = start + tl.arange(0, BLOCK)
        is_past = (weights > 0.0) & (passed + tl.cumsum(weights, 0) > target)
        token = tl.minimum(token, tl.min(tl.where(is_past, i, _NOBODY), 0))
        last = tl.maximum(last, tl.max(tl.where(weights > 0.0, i, 0), 0))
        passed += tl.sum(weights, 0)
    # rounding can put the target past the end
    tl.store(chosen + tl.program_id(0), tl.where(token == _NOBODY, last, token))


@triton.jit
def _weight(bits, min_p):
    """The weight of an id at a distance of these bits."""
    weight = tl.exp(-bits.to(tl.float32, bitcast=True))
    return tl.where(weight >= min_p, weight, 0.0).to(tl.float64)


def choose(logits: Tensor, draws: list[Draw]) -> Tensor:
    """`SamplingOps.choose`."""
    chosen = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    if not draws:
        return chosen
    table = copied_to(logits.device, torch.tensor(draws, dtype=torch.float64))
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    block = min(BLOCK, triton.next_power_of_2(logits.shape[1]))
    choose_kernel[(len(draws),)](
        logits,
        table,
        chosen,
        logits.shape[1],
        logits.stride(0),
        BLOCK=block,
        num_warps=NUM_WARPS,
    )
    return chosen
