"""What is there when serving begins is nothing for Python's garbage collector to walk again."""

import gc

from motet.cli.serving import keep_for_good


def test_what_stays_is_not_looked_at_again() -> None:
    try:
        keep_for_good()
        assert gc.get_freeze_count() > 100_000  # torch, transformers, ...
        assert len(gc.get_objects()) < 10_000
    finally:
        gc.unfreeze()
