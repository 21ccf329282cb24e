"""What the emulated GPUs compute, in bf16: the contract tests' cases at small shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from motet.engine.draw import draw
from motet.engine.request import SamplingParams
from motet_kernels import Ops
from motet_kernels.gpu.gpu_ops import GpuOps
from motet_kernels.gpu.sampling_kernel import choose
from motet_kernels.gpu.tuning import TuningTable
from motet_kernels.sampling import Draw
from torch import Tensor

from tests.support.attention_cases import AttentionCase, Heads
from tests.support.kernel_cases import GroupCase
from tests.support.lowrank_cases import PARTS, LinearCase, adapter, table_of

BF16 = torch.bfloat16

# What a case yields: results with what they are to be close to, and pairs that have equal bits.
Close = Iterable[tuple[Tensor, Tensor]]
Equal = Iterable[tuple[Tensor, Tensor]]
Run = Callable[[Ops], tuple[Close, Equal]]


@dataclass(frozen=True)
class EmulatedCase:
    """fast_math: the ops it runs on; without it, `run` also gives pairs of equal bits: each row in
    the batch and alone."""

    name: str
    run: Run
    fast_math: bool = False

    def ops(self, tuning: TuningTable) -> GpuOps:
        return GpuOps(fast_math=self.fast_math, tuning=tuning)


def group(outs: Sequence[int], k: int, slots: Sequence[int], *alone: int) -> Run:
    """Linears that share an input: adapters of ranks 1 to 96, base rows, gains as DoRA has them,
    NaN in every slot that is not routed to. alone: rows that are computed alone as well."""

    def run(ops: Ops) -> tuple[Close, Equal]:
        case = GroupCase.make(outs, k, BF16)
        x = case.inputs(len(slots), BF16)
        expected = case.expected(x, slots)
        case.spoil_unused_slots(slots)
        together = case.run(ops, x, slots)
        equal = []
        for t in alone:
            solo = case.run(ops, x[t : t + 1], [slots[t]])
            equal += [(y[t : t + 1], y_alone) for y, y_alone in zip(together, solo, strict=True)]
        return zip(together, expected, strict=True), equal

    return run


def parts(k: int, n: int, *, in_gain: bool = False) -> Run:
    """Adapters with each of LowRank's parts in a batch, and one with all of them."""

    def run(ops: Ops) -> tuple[Close, Equal]:
        extra = ("in_gain",) if in_gain else ()
        adapters = [adapter(5, k, n, BF16, parts=[part, *extra]) for part in PARTS]
        every = [part for part in PARTS if not part.startswith("core-")]
        adapters.append(
            adapter(20, k, n, BF16, parts=[*every, "core-3", *extra], activation="gelu")
        )
        adapters.append(adapter(0, k, n, BF16, parts=["gain", "bias", *extra]))
        slots = [0, *range(1, len(adapters) + 1)]
        case = LinearCase.make([table_of(adapters, k, n)], slots, BF16)
        close = list(zip(case.linear(ops), case.expected_linear(), strict=True))
        if not in_gain:
            close.append((case.adapt(ops), case.expected_adapt()))
        return close, []

    return run


def alone(k: int, n: int) -> Run:
    """Three rows of adapters on top of a result that is there."""

    def run(ops: Ops) -> tuple[Close, Equal]:
        table = table_of([adapter(rank, k, n, BF16) for rank in (3, 33)], k, n)
        case = LinearCase.make([table], [2, 0, 1], BF16)
        return [(case.adapt(ops), case.expected_adapt())], []

    return run


def attention(
    lens: Sequence[tuple[int, int]],
    heads: Heads,
    window: int | None = None,
    softcap: float | None = None,
) -> Run:
    """Rows of (tokens, keys) over scattered pages whose unused entries are NaN, and each alone."""

    def run(ops: Ops) -> tuple[Close, Equal]:
        case = AttentionCase.make(lens, BF16, heads=heads, block_size=8)
        out = case.run(ops, window=window, softcap=softcap)
        close = zip(out, case.expected(window=window, softcap=softcap), strict=True)
        alone = [
            case.only(index).run(ops, window=window, softcap=softcap)[0]
            for index in range(len(lens))
        ]
        return close, zip(out, alone, strict=True)

    return run


def stored(ops: Ops) -> tuple[Close, Equal]:
    """store_kv writes the slots named, and nothing beside them."""
    generator = torch.Generator().manual_seed(3)
    k = torch.randn(5, 2, 16, generator=generator).to(BF16)
    v = torch.randn(5, 2, 24, generator=generator).to(BF16)
    slots = torch.tensor([7, 0, 19, 20, 11])
    k_cache, v_cache = torch.full((3, 8, 2, 16), 2.0), torch.full((3, 8, 2, 24), 3.0)
    caches = k_cache.to(BF16), v_cache.to(BF16)
    ops.store_kv(k, v, *caches, slots)
    equal = []
    for cache, values, before in zip(caches, (k, v), (2.0, 3.0), strict=True):
        expected = torch.full_like(cache, before)
        expected.view(-1, *cache.shape[2:])[slots] = values
        equal.append((cache, expected))
    return [], equal


def sampled(ops: Ops) -> tuple[Close, Equal]:
    """Tokens drawn on the device are the host's."""
    generator = torch.Generator().manual_seed(5)
    params = [
        SamplingParams(max_tokens=1, temperature=0.4, top_k=1),
        SamplingParams(max_tokens=1, temperature=0.7, top_k=7),
        SamplingParams(max_tokens=1, temperature=1.3, top_p=0.8, min_p=0.02),
    ]
    logits = 3 * torch.randn(len(params), 320, generator=generator)
    us = (0.1, 0.5, 0.9)
    draws = [
        Draw(each.temperature, each.min_p, each.top_k, each.top_p, u)
        for each, u in zip(params, us, strict=True)
    ]
    rows = zip(logits, params, us, strict=True)
    expected = torch.tensor([draw(row.numpy(), each, u) for row, each, u in rows])
    return [], [(choose(logits, draws).long(), expected)]


MIXED = [0, 1, 6, 3, 0, 5]
TWO_TILES = [2] * 9 + [0] * 4 + [5] * 6
PAGED = [(3, 11), (1, 1), (1, 29), (6, 6)]
CASES = (
    EmulatedCase(
        "q, k, v: ranks 1 to 96, base and DoRA rows", group((40, 24, 24), 64, MIXED, 1, 4)
    ),
    EmulatedCase("19 rows: more than one tile", group((24,), 64, TWO_TILES, 12, 18)),
    EmulatedCase("K = 320 in parts (split-K)", group((24,), 320, [4, 0, 1], 0)),
    EmulatedCase("K = 60: blocks of NF4 across rows", group((24,), 60, [4, 0, 1], 0)),
    EmulatedCase("every part of an adapter; adapters alone", parts(64, 24)),
    EmulatedCase("gains on inputs (IA3)", parts(64, 24, in_gain=True)),
    EmulatedCase("fast_math, 3 rows: GEMV", group((40, 24), 128, [5, 0, 3]), True),
    EmulatedCase("fast_math, 9 rows: dequantised", group((24,), 64, [2] * 4 + [0] * 5), True),
    EmulatedCase("fast_math, 3 rows: adapters alone", alone(64, 24), True),
    EmulatedCase("attention over pages, mixed rows", attention(PAGED, Heads())),
    EmulatedCase("attention, window, soft cap", attention([(2, 40), (1, 21)], Heads(), 13, 20.0)),
    EmulatedCase("150 keys in parts (split-KV)", attention([(1, 150), (1, 7)], Heads(2, 1, 32))),
    EmulatedCase("store_kv", stored),
    EmulatedCase("tokens drawn on the device", sampled),
)
