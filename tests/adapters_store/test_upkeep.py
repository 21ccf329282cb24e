"""Chores that fail do not keep the others, or the next time, from being done."""

from __future__ import annotations

from motet_adapters.upkeep import Upkeep


def test_a_chore_that_fails_does_not_end_the_others() -> None:
    done: list[str] = []

    def broken() -> None:
        done.append("broken")
        raise OSError("the shared store is away")

    upkeep = Upkeep(broken, lambda: done.append("sound"))
    upkeep.run_once()
    upkeep.run_once()
    assert done == ["broken", "sound"] * 2
    upkeep.close()
