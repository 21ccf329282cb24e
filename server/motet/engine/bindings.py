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
        """Bind the slot of every row's sequence that holds something else, or nothing, so far."""
        slots = (row.sequence.slot for row in rows)
        for slot in {slot.index: slot for slot in slots if slot is not None}.values():
            if self._bound.get(slot.index) != (slot.generation, slot.digest):
                self._bind(slot)
                self._bound[slot.index] = (slot.generation, slot.digest)

    def digest(self, slot: Slot | None) -> str | None:
        """The adapter that the tables hold in place of `slot`; None for the base."""
        return None if slot is None else self._bound[slot.index][1]

    def holds(self, row: Row) -> bool:
        """Whether the row runs on its own: on the base where the request's adapter is not active,
        and else on a slot that holds just the adapter which the request was admitted with."""
        sequence = row.sequence
        adapter, slot = sequence.request.adapter, sequence.slot
        if adapter is None or slot is None:
            return adapter is None and slot is None and row.slot == 0
        if row.start >= sequence.adapted_from:
            is_right = row.slot == slot.index
        else:
            is_right = row.slot == 0 and row.stop <= sequence.adapted_from
        return is_right and self._bound.get(slot.index) == (slot.generation, adapter.digest)
