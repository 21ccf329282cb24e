"""The CPU kernels against torch and bitsandbytes, as ratios taken in one run.

    python benchmarks/kernels.py [--threads 2] [--level avx512-bf16] [--rounds 7]

NF4 linears: us a call, this library's over torch's bf16 `F.linear` and over bitsandbytes' 4-bit
product, at several row counts; weights are rotated so that none is still in a cache when its turn
comes. Adapters: what 32 rows over 8 adapters of rank 16 add to the base product, against CpuOps and
against reading the adapters' bytes. Contenders alternate and each shows its best round, so that
other work on the machine disturbs all of them alike. With --threads 1 a thread's own CPU time is
counted, which other processes disturb least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from bitsandbytes.nn import Linear4bit
from motet_kernels import LowRank, Nf4Weight, Ops, Routing, SlotTable
from motet_kernels.cpu.cpu_ops import CpuOps
from motet_kernels.cpu.native_library import LEVELS
from motet_kernels.cpu.native_ops import NativeCpuOps
from torch import Tensor
from torch.nn import functional as F

CPU = torch.device("cpu")
BF16 = torch.bfloat16
ROTATED_BYTES = 96 << 20  # of bf16 weights; more than the last cache of most machines

# [N, K] of SmolLM2-135M's groups (q/k/v, o, gate/up, down) and one large linear.
SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536), (4096, 4096))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

NUM_ROWS, NUM_ADAPTERS, RANK = 32, 8, 16
GROUPS = (((576, 192, 192), 576), ((576,), 576), ((1536, 1536), 576), ((576,), 1536))
COPIES = 24


class Clock:
    """Best times of contenders that take turns."""

    def __init__(self, num_threads: int, rounds: int) -> None:
        self._now = time.thread_time if num_threads == 1 else time.perf_counter
        self._rounds = rounds

    def best(self, contenders: Sequence[Callable[[], None]]) -> list[float]:
        """Seconds of each contender's best round, after one that is not counted."""
        for contender in contenders:
            contender()
        times = [float("inf")] * len(contenders)
        for _ in range(self._rounds):
            for i, contender in enumerate(contenders):
                start = self._now()
                contender()
                times[i] = min(times[i], self._now() - start)
        return times


def bench_linears(native: NativeCpuOps, clock: Clock) -> None:
    print(f"\n{'N x K':>11} {'rows':>5} {'us':>8} {'GB/s':>6} {'x torch':>8} {'x bnb':>7}")
    for n, k in SHAPES:
        copies = max(2, ROTATED_BYTES // (2 * n * k))
        weight = Nf4Weight.quantize(torch.randn(n, k))
        groups = [native.pack([weight], [None], BF16, CPU) for _ in range(copies)]
        dense = [weight.dequantize(BF16) for _ in range(copies)]
        packed = [_bitsandbytes_linear(n, k) for _ in range(copies)]
        table = [SlotTable(1, k, n, CPU)]
        for rows in ROWS:
            x, routing = torch.randn(rows, k).to(BF16), Routing.from_slots([0] * rows)

            contenders = (
                _each(
                    groups,
                    lambda group, x=x, t=table, r=routing: native.adapted_linear(x, group, t, r),
                ),
                _each(dense, lambda w, x=x: F.linear(x, w)),
                _each(packed, lambda linear, x=x: linear(x)),
            )
            with torch.inference_mode():
                a, b, c = (seconds / copies for seconds in clock.best(contenders))
            rate = n * k * 9 / 16 / a / 1e9
            print(
                f"{n:>5} x{k:>4} {rows:>5} {a * 1e6:>8.1f} {rate:>6.1f} {b / a:>8.2f} {c / a:>7.2f}"
            )


def _each(weights: Sequence[object], multiply: Callable[..., object]) -> Callable[[], None]:
    """One product with each of the weights in turn."""

    def run() -> None:
        for weight in weights:
            multiply(weight)

    return run


def _bitsandbytes_linear(n: int, k: int) -> Callable[[Tensor], Tensor]:
    linear = Linear4bit(k, n, bias=False, compute_dtype=BF16, quant_type="nf4")
    linear.load_state_dict({"weight": torch.randn(n, k).to(BF16)})
    return linear.to("cpu").eval()


def bench_adapters(native: NativeCpuOps, clock: Clock) -> None:
    """Sums over the four groups of a SmolLM2-135M layer."""
    x_by_k = {k: torch.randn(NUM_ROWS, k).to(BF16) for _, k in GROUPS}
    slots = sorted(1 + i % NUM_ADAPTERS for i in range(NUM_ROWS))
    routings = (Routing.from_slots([0] * NUM_ROWS), Routing.from_slots(slots))
    contenders: list[Callable[[], None]] = []
    for ops in (native, CpuOps()):
        layers = [_layer(ops) for _ in range(COPIES)]
        contenders += [_run(ops, layers, x_by_k, routing) for routing in routings]
    buffers = _adapter_buffers()
    contenders.append(_each(buffers, Tensor.sum))
    times = [seconds / COPIES * 1e6 for seconds in clock.best(contenders)]
    ours, theirs, read = times[1] - times[0], times[3] - times[2], times[4]
    print(f"\n{NUM_ROWS} rows over {NUM_ADAPTERS} adapters of rank {RANK}, us a layer")
    print(f"  base alone       {native.name} {times[0]:.0f}, cpu {times[2]:.0f}")
    print(f"  the adapters add {native.name} {ours:.0f}, cpu {theirs:.0f}: {theirs / ours:.1f} x")
    print(f"  reading the adapters' bytes: {read:.0f}; added / read = {ours / read:.2f}")


_Layer = list[tuple[object, list[SlotTable], int]]


def _layer(ops: Ops) -> _Layer:
    dtype = ops.adapter_dtype(BF16)
    layer: _Layer = []
    for outs, k in GROUPS:
        weights = [Nf4Weight.quantize(torch.randn(n, k)) for n in outs]
        tables = [SlotTable(NUM_ADAPTERS + 1, k, n, CPU) for n in outs]
        for table, n in zip(tables, outs, strict=True):
            for slot in range(1, NUM_ADAPTERS + 1):
                a, bt = torch.randn(RANK, k).to(dtype), torch.randn(RANK, n).to(dtype)
                table.put(slot, LowRank(a, bt, None, None))
        layer.append((ops.pack(weights, [None] * len(outs), BF16, CPU), tables, k))
    return layer


def _run(
    ops: Ops, layers: Sequence[_Layer], x_by_k: dict[int, Tensor], routing: Routing
) -> Callable[[], None]:
    def run() -> None:
        for layer in layers:
            for group, tables, k in layer:
                ops.adapted_linear(x_by_k[k], group, tables, routing)  # type: ignore[arg-type]

    return run


def _adapter_buffers() -> list[Tensor]:
    """As many bytes as a layer's adapters have, once for each layer."""
    num_bytes = sum(2 * NUM_ADAPTERS * RANK * (k + n) for outs, k in GROUPS for n in outs)
    return [torch.ones(num_bytes // 4) for _ in range(COPIES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", choices=LEVELS, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    native = NativeCpuOps(options.level)
    clock = Clock(options.threads, options.rounds)
    print(f"{native.name}, {options.threads} threads, best of {options.rounds}")
    bench_linears(native, clock)
    bench_adapters(native, clock)


if __name__ == "__main__":
    main()
