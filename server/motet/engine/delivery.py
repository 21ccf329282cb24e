"""Events on their way out of the engine thread."""

from __future__ import annotations

import logging
from collections.abc import Callable

from motet.engine.request import Event

log = logging.getLogger(__name__)


class Delivery:
    """Hands events to a client's callback; a callback that raises ends its own request alone."""

    def __init__(
        self, request_id: str, deliver: Callable[[Event], None], cancel: Callable[[str], None]
    ) -> None:
        self._request_id = request_id
        self._deliver = deliver
        self._cancel = cancel

    def __call__(self, event: Event) -> None:
        try:
            self._deliver(event)
        except Exception:
            # A client's code on our thread: its failure must not reach the other requests.
            log.exception("delivering an event of request %s failed", self._request_id)
            self._cancel(self._request_id)
