"""Rests of work that can wait, while anybody's tokens are made."""

from __future__ import annotations

import time

from motet.engine.engine import Engine

_REST_S = 0.00025


class GivingWay:
    """Called between two modules of an upload that is lowered.

    The engine computes on every core, and a core that something else computes on holds up all.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self) -> None:
        if self._engine.stats().num_running:
            time.sleep(_REST_S)
