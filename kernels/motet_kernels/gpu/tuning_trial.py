"""One trial of a configuration: the ops that it is for, run on a device and timed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from statistics import median
from typing import Any

import torch
from torch import Tensor
from triton.errors import TritonError

from motet_kernels.attention_layout import AttentionRow
from motet_kernels.gpu.device_time import seconds_of
from motet_kernels.gpu.gpu_ops import GpuOps
from motet_kernels.gpu.tuning import Entry, TuningTable
from motet_kernels.lowrank import LowRank, SlotTable
from motet_kernels.nf4 import BLOCK_LEN, Nf4Weight
from motet_kernels.routing import Routing

_log = logging.getLogger(__name__)

RANK = 16
GEMV_ROWS = 2
BLOCK_SIZE = 16
HEADS, KV_HEADS = 32, 8
# Weights are taken in turn, so that none is still in a cache of this size when it comes again.
CACHE_BYTES = 256 * 2**20
REPEATS = 7


class Trials:
    """Times configurations on a device. table: what everything but the one tried is taken from.

    in_features, num_keys: K of the linears and keys of the attention's rows.
    """

    def __init__(
        self,
        table: TuningTable,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        *,
        in_features: int = 4096,
        num_keys: int = 2048,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._table, self._device, self._dtype = table, device, dtype
        self._in_features, self._num_keys, self._cache_bytes = in_features, num_keys, cache_bytes
        self._weights: dict[int, list[Nf4Weight]] = {}

    def seconds(self, section: str, sizes: Mapping[str, int], config: Any) -> float:
        """Median time of a call; infinity for a configuration that does not run on the device."""
        only: dict[str, Any] = {f"{section}s": (Entry({}, config),)}
        table = replace(self._table, **only)
        ops = GpuOps(fast_math=section == "gemv", tuning=table)
        prepare = {"linear": self._linear, "gemv": self._gemv, "lowrank": self._lowrank,
                   "attention": self._attention}[section]  # fmt: skip
        call = prepare(ops, sizes)
        try:
            call()
            return median(seconds_of(call, self._device) for _ in range(REPEATS))
        except (TritonError, RuntimeError) as error:
            # Too much shared memory or too many registers, or a pass of the compiler or the
            # assembler that gives up, as the version likes. The other trials go on.
            _log.info("%s %s with %s: %s", section, dict(sizes), config, error)
            return inf

    def _linear(self, ops: GpuOps, sizes: Mapping[str, int]) -> Callable[[], Any]:
        return self._product(ops, sizes["rows"], sizes["outputs"])

    def _gemv(self, ops: GpuOps, sizes: Mapping[str, int]) -> Callable[[], Any]:
        return self._product(ops, GEMV_ROWS, sizes["outputs"])

    def _product(self, ops: GpuOps, rows: int, outputs: int) -> Callable[[], Any]:
        weights = self._weights.get(outputs) or self._random_weights(outputs)
        self._weights = {outputs: weights}  # the last shape's alone: they fill memory
        groups = [ops.pack([each], [None], self._dtype, self._device) for each in weights]
        table = SlotTable(1, self._in_features, outputs, self._device)
        x, routing = self._random(rows, self._in_features), Routing.from_slots([0] * rows)
        turn = 0

        def call() -> None:
            nonlocal turn
            turn += 1
            ops.adapted_linear(x, groups[turn % len(groups)], [table], routing)

        return call

    def _lowrank(self, ops: GpuOps, sizes: Mapping[str, int]) -> Callable[[], Any]:
        rows, k = sizes["rows"], self._in_features
        table = SlotTable(rows + 1, k, k, self._device)
        for slot in range(1, rows + 1):
            table.put(slot, LowRank(self._random(RANK, k), self._random(RANK, k)))
        x, y = self._random(rows, k), self._random(rows, k)
        routing = Routing.from_slots(range(1, rows + 1))
        return lambda: ops.adapt(x, y, table, routing)

    def _attention(self, ops: GpuOps, sizes: Mapping[str, int]) -> Callable[[], Any]:
        size, num_blocks = sizes["head_size"], -(-self._num_keys // BLOCK_SIZE)
        caches = [self._random(8 * num_blocks, BLOCK_SIZE, KV_HEADS, size) for _ in range(2)]
        starts = [row * num_blocks for row in range(8)]
        rows = [
            AttentionRow(row, 1, self._num_keys, tuple(range(start, start + num_blocks)))
            for row, start in enumerate(starts)
        ]
        q = self._random(8, HEADS, size)
        plan = ops.plan_attention(rows, BLOCK_SIZE, self._device)
        return lambda: ops.attention(
            q, caches[0], caches[1], plan, scale=size**-0.5, window=None, softcap=None
        )

    def _random_weights(self, outputs: int) -> list[Nf4Weight]:
        num_weights = outputs * self._in_features
        copies = max(1, min(16, self._cache_bytes // (num_weights // 2)))
        blocks = -(-num_weights // BLOCK_LEN)
        return [
            Nf4Weight(
                torch.randint(256, (num_weights // 2, 1), dtype=torch.uint8, device=self._device),
                torch.rand(blocks, device=self._device),
                (outputs, self._in_features),
            )
            for _ in range(copies)
        ]

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self._device).to(self._dtype)
