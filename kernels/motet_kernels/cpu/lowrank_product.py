"""The adapter half of a group of linears, in float32."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from motet_kernels.cpu.segments import SegmentPlan, TiledSegment
from motet_kernels.lowrank import LowRank, SlotTable

# With fewer outputs, or rows that do not start on a cache line, matrix libraries fall back to
# kernels whose sums depend on where a row lies in memory.
_ALIGNED_LEN = 16

# Batching products of several slots copies their A and B side by side. It pays for itself up to
# this many elements of A or B, and this many tiles of one segment.
_MOST_COPIED = 1 << 15
_MOST_TILES = 4

# torch multiplies batches of smaller matrices in a loop of its own, with other bits.
_LEAST_BATCHED_RANK = 4
_LEAST_BATCHED_LEN = 32


def add_lowrank(
    x: Tensor,
    y: Tensor,
    tables: Sequence[SlotTable],
    plan: SegmentPlan,
    base_bias: Tensor | None,
    *,
    may_batch: bool,
) -> Tensor:
    """gain * (y + B A x) + adapter bias + base bias, computed in float32 and rounded once.

    x [T, K]; y [T, sum N], the members' W x side by side; base_bias float32 [sum N].
    may_batch: whether a batch of tiles has the bits of each tile multiplied by itself.
    Returns [T, sum N] in y's dtype. May overwrite y.
    """
    tiles, y32 = plan.tiles(x.float()), y.float()
    members = y32.split_with_sizes([table.out_features for table in tables], dim=1)
    for table, member in zip(tables, members, strict=True):
        for segment, lowrank, delta in _deltas(tiles, table, plan, may_batch):
            rows = member[segment.start : segment.stop]
            rows.add_(delta[: segment.stop - segment.start])
            if lowrank.gain is not None:
                rows.mul_(lowrank.gain)
            if lowrank.bias is not None:
                rows.add_(lowrank.bias)
    if base_bias is not None:
        y32 += base_bias
    return y32.to(y.dtype)


_Delta = tuple[TiledSegment, LowRank, Tensor]


def _deltas(
    tiles: Tensor, table: SlotTable, plan: SegmentPlan, may_batch: bool
) -> Iterable[_Delta]:
    """B A x of each segment whose slot adapts this linear, [rows of its tiles, N]."""
    batches: dict[int, list[tuple[TiledSegment, LowRank]]] = defaultdict(list)
    for segment in plan.segments:
        lowrank = table[segment.slot]
        if lowrank is None:
            continue
        if may_batch and _is_small(segment, lowrank):
            batches[lowrank.a.shape[0]].append((segment, lowrank))
        else:
            rows = tiles[segment.first_tile : segment.last_tile].flatten(0, 1)
            yield segment, lowrank, _product(rows, lowrank)
    for batch in batches.values():
        yield from _batched(tiles, batch)


def _is_small(segment: TiledSegment, lowrank: LowRank) -> bool:
    (rank, k), n = lowrank.a.shape, lowrank.bt.shape[1]
    return (
        segment.last_tile - segment.first_tile <= _MOST_TILES
        and rank >= _LEAST_BATCHED_RANK
        and min(k, n) >= _LEAST_BATCHED_LEN
        and k % _ALIGNED_LEN == 0
        and rank * max(k, n) <= _MOST_COPIED
    )


def _batched(tiles: Tensor, batch: Sequence[tuple[TiledSegment, LowRank]]) -> Iterable[_Delta]:
    """B A x for segments of one rank, all their tiles in two batched products."""
    a: list[Tensor] = []
    bt: list[Tensor] = []
    places: list[int] = []
    for segment, lowrank in batch:
        num_tiles = segment.last_tile - segment.first_tile
        a.extend([lowrank.a] * num_tiles)
        bt.extend([lowrank.bt] * num_tiles)
        places.extend(range(segment.first_tile, segment.last_tile))
    if len(places) != tiles.shape[0]:
        tiles = torch.stack([tiles[place] for place in places])
    delta = torch.bmm(torch.bmm(tiles, torch.stack(a).mT), torch.stack(bt)).flatten(0, 1)
    sizes = [(segment.last_tile - segment.first_tile) * tiles.shape[1] for segment, _ in batch]
    for (segment, lowrank), rows in zip(batch, delta.split_with_sizes(sizes), strict=True):
        yield segment, lowrank, rows


def _product(x: Tensor, lowrank: LowRank) -> Tensor:
    """B A x for rows of one slot, x [M, K] -> [M, N]."""
    if lowrank.a.shape[1] % _ALIGNED_LEN == 0 and lowrank.bt.shape[1] >= _ALIGNED_LEN:
        return F.linear(x, lowrank.a).mm(lowrank.bt)
    # each row copied and multiplied alone: right by construction, and slow
    rows = x.split_with_sizes([1] * x.shape[0])
    return torch.cat([F.linear(row.clone(), lowrank.a).mm(lowrank.bt) for row in rows])
