"""A decoder layer with adapters on all its linears, and steps of rows through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from motet_kernels import (
    AdaptedGroup,
    AttentionRow,
    DecoderLayer,
    FusedLayers,
    LayerOps,
    LayerStep,
    LowRank,
    NormTable,
    Ops,
    RmsNorm,
    Routing,
    SlotTable,
)
from torch import Tensor

from tests.support.kernel_cases import CPU, GroupCase
from tests.support.lowrank_families import lowranks

BLOCK_SIZE = 4
SLOTS = 40  # as many as adapters of families, and more


@dataclass(frozen=True)
class LayerSizes:
    hidden: int = 100
    inner: int = 132
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 24


@dataclass(frozen=True)
class LayerRow:
    """`num_tokens` more tokens of a sequence that has `past` already, on `slot`."""

    slot: int
    num_tokens: int
    past: int
    seed: int


@dataclass(frozen=True)
class LayerCase:
    groups: tuple[GroupCase, ...]  # qkv, output, gate and up, down
    norms: tuple[RmsNorm, RmsNorm]
    head_norms: tuple[RmsNorm | None, RmsNorm | None]
    sizes: LayerSizes
    dtype: torch.dtype
    window: int | None
    softcap: float | None
    output_adapters: SlotTable | None

    @classmethod
    def make(
        cls,
        dtype: torch.dtype,
        *,
        sizes: LayerSizes = LayerSizes(),
        head_norms: bool = False,
        biased: bool = False,
        window: int | None = None,
        softcap: float | None = None,
        families: bool = False,
        adapted_norms: bool = False,
        adapted_output: bool = False,
    ) -> LayerCase:
        """families: adapters of every family on the linears, in place of LoRA and DoRA.

        adapted_norms: slots 2 and 5 have weights of their own for norms.
        adapted_output: every slot but 3 has an adapter on the layer's output, of any family.
        """
        generator = torch.Generator().manual_seed(3)

        def weight(size: int) -> Tensor:
            return (torch.rand(size, generator=generator) + 0.5).to(dtype)

        def norm(size: int) -> RmsNorm:
            table = None
            if adapted_norms:
                table = NormTable(SLOTS, size, CPU)
                for slot in (2, 5):
                    table.put(slot, weight(size))
                table.put(SLOTS - 1, torch.full((size,), torch.nan, dtype=dtype))
            return RmsNorm(weight(size), 0.1, table)

        q = sizes.num_heads * sizes.head_size
        kv = sizes.num_kv_heads * sizes.head_size
        shapes = (
            ((q, kv, kv), sizes.hidden),
            ((sizes.hidden,), q),
            ((sizes.inner, sizes.inner), sizes.hidden),
            ((sizes.hidden,), sizes.inner),
        )
        return cls(
            groups=tuple(
                GroupCase.of_families(n, k, dtype)
                if families
                else GroupCase.make(n, k, dtype, biased=biased)
                for n, k in shapes
            ),
            norms=(norm(sizes.hidden), norm(sizes.hidden)),
            head_norms=(norm(sizes.head_size), norm(sizes.head_size))
            if head_norms
            else (None, None),
            sizes=sizes,
            dtype=dtype,
            window=window,
            softcap=softcap,
            output_adapters=_on_output(sizes.hidden, dtype) if adapted_output else None,
        )

    def layer(self, ops: Ops, k_cache: Tensor, v_cache: Tensor) -> DecoderLayer:
        qkv, output, gate_up, down = (
            AdaptedGroup(ops.pack(case.weights, case.biases, self.dtype, CPU), case.tables)
            for case in self.groups
        )
        return DecoderLayer(
            qkv,
            output,
            gate_up,
            down,
            *self.norms,
            *self.head_norms,
            num_heads=self.sizes.num_heads,
            num_kv_heads=self.sizes.num_kv_heads,
            head_size=self.sizes.head_size,
            scale=0.002,
            window=self.window,
            softcap=self.softcap,
            k_cache=k_cache,
            v_cache=v_cache,
            output_adapters=self.output_adapters,
        )

    def fuse(self, ops: Ops) -> FusedLayers:
        """The layer over a small cache."""
        assert isinstance(ops, LayerOps)
        shape = (2, BLOCK_SIZE, self.sizes.num_kv_heads, self.sizes.head_size)
        return ops.fuse([self.layer(ops, *torch.zeros(2, *shape, dtype=self.dtype))])

    def run(self, ops: Ops, rows: Sequence[LayerRow], *, token_rows: bool = False) -> list[Tensor]:
        """The output of each row [num_tokens, H] after the layer, twice with caches of its own.

        A cache is NaN wherever no row may look. token_rows: every token is a row of its own to
        attention, as tokens are that were generated and have to be computed again.
        """
        assert isinstance(ops, LayerOps)
        k_cache, v_cache, tables = self._caches(rows)
        fused = ops.fuse(
            [
                self.layer(ops, k_cache, v_cache),
                self.layer(ops, k_cache.clone(), v_cache.clone()),
            ]
        )
        layout: list[AttentionRow] = []
        slots: list[int] = []
        for row, blocks in zip(rows, tables, strict=True):
            kv_len = row.past + row.num_tokens
            if token_rows:
                layout += [
                    AttentionRow(len(slots) + i, 1, row.past + i + 1, blocks)
                    for i in range(row.num_tokens)
                ]
            else:
                layout.append(AttentionRow(len(slots), row.num_tokens, kv_len, blocks))
            slots += [
                blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                for p in range(row.past, kv_len)
            ]
        cos, sin = self._rotary(rows)
        step = LayerStep(
            Routing.from_slots([row.slot for row in rows for _ in range(row.num_tokens)]),
            ops.plan_attention(layout, BLOCK_SIZE, CPU),
            torch.tensor(slots),
            cos,
            sin,
        )
        x = torch.cat([self._inputs(row) for row in rows])
        y = ops.decoder_layers(x, fused, step)
        return list(y.split([row.num_tokens for row in rows]))

    def _inputs(self, row: LayerRow) -> Tensor:
        generator = torch.Generator().manual_seed(row.seed)
        return torch.randn(row.num_tokens, self.sizes.hidden, generator=generator).to(self.dtype)

    def _caches(self, rows: Sequence[LayerRow]) -> tuple[Tensor, Tensor, list[tuple[int, ...]]]:
        heads, size = self.sizes.num_kv_heads, self.sizes.head_size
        counts = [-(-(row.past + row.num_tokens) // BLOCK_SIZE) for row in rows]
        shape = (sum(counts) + 1, BLOCK_SIZE, heads, size)
        k_cache, v_cache = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
        order = torch.randperm(
            sum(counts), generator=torch.Generator().manual_seed(len(rows))
        ).tolist()
        tables = []
        for row, count in zip(rows, counts, strict=True):
            blocks = tuple(order.pop() for _ in range(count))
            generator = torch.Generator().manual_seed(row.seed + 1000)
            for position in range(row.past):
                place = blocks[position // BLOCK_SIZE], position % BLOCK_SIZE
                k_cache[place] = torch.randn(heads, size, generator=generator)
                v_cache[place] = torch.randn(heads, size, generator=generator)
            tables.append(blocks)
        return k_cache.to(self.dtype), v_cache.to(self.dtype), tables

    def _rotary(self, rows: Sequence[LayerRow]) -> tuple[Tensor, Tensor]:
        positions = [row.past + i for row in rows for i in range(row.num_tokens)]
        half = self.sizes.head_size // 2
        angles = torch.tensor(positions)[:, None] * 0.7 ** torch.arange(half)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


def _on_output(hidden: int, dtype: torch.dtype) -> SlotTable:
    """A family for each slot, and NaN in the last."""
    found = lowranks(hidden, hidden, dtype, alone=False, seed=7)
    table = SlotTable(SLOTS, hidden, hidden, CPU)
    for slot, lowrank in enumerate(found.values(), start=1):
        table.put(slot, lowrank)
    table.clear(3)
    nan = torch.full((1, hidden), torch.nan, dtype=dtype)
    table.put(SLOTS - 1, LowRank(nan, nan))
    return table
