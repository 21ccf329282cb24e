"""Which adapter each slot's tables hold, and proof that a row runs on its own."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from motet_adapters import Slot

from motet.engine.scheduler import Row


class Bindings:
    """The identity (generation and digest) of what was last put into every slot.

    The digest is the adapter's content, so a name that was re-pointed, or a slot that was given to
    another adapter, can never pass for what a row was admitted with.
    """

    def __init__(self, bind: Callable[[Slot], None]) -> None:
        """`bind` puts a slot's tensors into the model's tables."""
        self._bind = bind
        self._bound: dict[int, tuple[int, str]] = {}

    def update(self, rows: SequenceOf[Row]) -> None:
        """Bind every slot the rows run on that holds something else, or nothing, so far."""
        for slot in {row.slot: row.sequence.slot for row in rows}.values():
            if slot is not None and self._bound.get(slot.index) != (slot.generation, slot.digest):
                self._bind(slot)
                self._bound[slot.index] = (slot.generation, slot.digest)

    def digest(self, slot: int) -> str | None:
        """The adapter that the tables of `slot` hold; None for the base's slot 0."""
        return self._bound[slot][1] if slot else None

    def holds(self, row: Row) -> bool:
        """Whether the row's slot holds just the adapter its request was admitted with."""
        adapter, slot = row.sequence.request.adapter, row.sequence.slot
        if adapter is None or slot is None:
            return adapter is None and slot is None and row.slot == 0
        bound = self._bound.get(row.slot)
        return row.slot == slot.index and bound == (slot.generation, adapter.digest)
