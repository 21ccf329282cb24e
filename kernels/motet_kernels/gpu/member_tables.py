"""The slot tables of a group's members as one table of addresses on the device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from motet_kernels.host_copy import copied_to
from motet_kernels.lowrank import LowRank, SlotTable

ALIGNMENT = 16  # bytes: the widest load of a thread
SMALLEST_RANKS = 16  # what tl.dot takes at least


@dataclass(frozen=True)
class MemberTables:
    """What the kernels must know of every slot of J linears that share an input.

    pointers: int64 [S, J, 12]; a slot's rows are `SlotTable.pointers`'. It and sizes stay where
    they are when adapters change, so that a captured graph finds the new ones.
    """

    pointers: Tensor
    sizes: Tensor  # int32 [J], each member's N, on the device
    sources: tuple[Tensor, ...]  # the members' own tables, as `pointers` copied them
    dtype: torch.dtype
    in_features: int
    out_features: tuple[int, ...]
    ranks: int  # room for a rank: a power of two no smaller than any, from SMALLEST_RANKS
    slots: frozenset[int]  # with an entry on any member
    scaled_slots: frozenset[int]  # with an in_gain on any member
    has_products: bool  # whether any slot has a rank above 0
    has_inner: bool  # whether any slot has a core, an inner bias or an activation
    aligned: bool  # whether every row of every tensor starts on ALIGNMENT bytes

    @property
    def num_members(self) -> int:
        return len(self.out_features)

    @property
    def launched_for(self) -> Hashable:
        """What launches depend on, besides what lies in the tensors: not which slots, not where."""
        return (
            self.ranks,
            bool(self.slots),
            bool(self.scaled_slots),
            self.has_products,
            self.has_inner,
            self.aligned,
        )


class MemberTablesCache:
    """`MemberTables` by the first of their slot tables, made anew when an adapter has changed."""

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[SlotTable, MemberTables] = WeakKeyDictionary()

    def of(self, tables: Sequence[SlotTable], dtype: torch.dtype) -> MemberTables:
        """Raises ValueError if a slot's tensors are not of `dtype`."""
        sources = tuple(table.pointers(dtype) for table in tables)
        found = self._found.get(tables[0])
        if found is None or not _same(found.sources, sources):
            found = _gathered(tables, sources, dtype, found)
            self._found[tables[0]] = found
        return found


def _same(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _gathered(
    tables: Sequence[SlotTable],
    sources: tuple[Tensor, ...],
    dtype: torch.dtype,
    previous: MemberTables | None,
) -> MemberTables:
    pointers = torch.stack(sources, dim=1)
    out_features = tuple(table.out_features for table in tables)
    if previous is not None and previous.pointers.shape == pointers.shape:
        pointers, sizes = previous.pointers.copy_(pointers), previous.sizes
    else:
        sizes = copied_to(pointers.device, torch.tensor(out_features, dtype=torch.int32))
    entries = [
        (slot, lowrank)
        for table in tables
        for slot in range(len(table))
        if (lowrank := table[slot]) is not None
    ]
    lowranks = [lowrank for _, lowrank in entries]
    rank = max((lowrank.rank for lowrank in lowranks), default=0)
    return MemberTables(
        pointers,
        sizes,
        sources,
        dtype,
        tables[0].in_features,
        out_features,
        ranks=max(SMALLEST_RANKS, 1 << (rank - 1).bit_length() if rank else 0),
        slots=frozenset(slot for slot, _ in entries),
        scaled_slots=frozenset(slot for slot, lowrank in entries if lowrank.in_gain is not None),
        has_products=rank > 0,
        has_inner=any(_is_inner(lowrank) for lowrank in lowranks),
        aligned=all(_is_aligned(table, dtype) for table in tables)
        and all(_starts_aligned(lowrank) for lowrank in lowranks),
    )


def _is_inner(lowrank: LowRank) -> bool:
    parts = lowrank.core is not None or lowrank.inner_bias is not None
    return parts or lowrank.activation != "identity"


def _is_aligned(table: SlotTable, dtype: torch.dtype) -> bool:
    sizes = (table.in_features, table.out_features)
    return all(size * dtype.itemsize % ALIGNMENT == 0 for size in sizes)


def _starts_aligned(lowrank: LowRank) -> bool:
    return all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in lowrank.tensors().values())
