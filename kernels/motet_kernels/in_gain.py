"""Adapters that scale what a linear is fed, a row at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from motet_kernels.lowrank import SlotTable
from motet_kernels.routing import Routing


def refuse_in_gains(tables: Sequence[SlotTable], routing: Routing) -> None:
    """For inputs that no single linear has to itself: raise ValueError if an adapter scales them.

    Only a token's own slot counts.
    """
    for table in tables:
        slots = table.in_gain_slots
        if slots and any(segment.slot in slots for segment in routing.segments):
            raise ValueError(
                "an in_gain needs a linear that shares its input with no other; this one does, or "
                "its input is not fed to it here"
            )


def scaled_inputs(x: Tensor, tables: Sequence[SlotTable], routing: Routing) -> Tensor:
    """in_gain * x, rounded to x's dtype: x [T, K] -> [T, K], x itself where no row is scaled.

    tables: of the linears that are fed x. Raises ValueError if several are and one would scale it.
    """
    if len(tables) > 1:
        refuse_in_gains(tables, routing)
        return x
    (table,) = tables
    if not table.in_gain_slots:
        return x
    z = x
    for slot, start, stop in routing.segments:
        lowrank = table[slot]
        if lowrank is None or lowrank.in_gain is None:
            continue
        if z is x:
            z = x.clone()
        z[start:stop] = (lowrank.in_gain.float() * x[start:stop].float()).to(x.dtype)
    return z
