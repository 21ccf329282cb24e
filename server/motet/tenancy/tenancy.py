"""Everything about tenants that one server needs, put together over its database."""

import logging
import threading
from contextlib import suppress

from motet_database import ChangeFeed, Database, DatabaseFailure

from motet.settings import Settings
from motet.tenancy.audit_trail import AuditTrail
from motet.tenancy.key_ring import KeyRing
from motet.tenancy.quotas import Quota, Quotas
from motet.tenancy.rates import Rates
from motet.tenancy.tenant_keys import TenantKeys
from motet.tenancy.tenants import Tenants
from motet.tenancy.usage import UsageMeter
from motet.tenancy.usage_report import UsageReport

FLUSH_S = 2.0
"""At most this much usage is lost when the process is killed."""

_log = logging.getLogger(__name__)


class Tenancy:
    """The parts, by what they are for. Between `start` and `close` usage is written down.

    Database and feed stay the caller's to start and to close, the feed before this; the feed may
    not have been started yet. window_s: the length of a minute, for the rates.
    """

    def __init__(
        self, database: Database, feed: ChangeFeed, settings: Settings, *, window_s: int = 60
    ) -> None:
        self._feed = feed
        self.ring = KeyRing(database)
        feed.listen(self.ring.take_over)
        self.tenants = Tenants(database, self._changed)
        self.keys = TenantKeys(database, self._changed)
        self.quotas = Quotas(database, default_quota(settings), self._changed)
        self.rates = Rates(window_s)
        self.usage = UsageMeter(database)
        self.report = UsageReport(database)
        self.audit = AuditTrail(database)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="motet-usage", daemon=True)

    def quota(self, tenant: str) -> Quota:
        """What this tenant (by id) may have and use, the server's defaults counted in."""
        return self.ring.quota(tenant).over(self.quotas.default)

    def start(self) -> None:
        self._thread.start()

    def try_flush(self) -> None:
        """Writes usage down now; what cannot be written is kept for the next time."""
        try:
            self.usage.flush(self.ring.take_used())
        except DatabaseFailure as error:
            _log.warning("usage could not be written down yet: %s", error.message)
        except Exception:
            _log.exception("usage could not be written down")

    def close(self) -> None:
        """Writes down what is left. Idempotent."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.try_flush()

    def _changed(self) -> None:
        # What was written counts in this process at once. If the database has gone away since,
        # the feed tells of it as soon as it is back.
        with suppress(DatabaseFailure):
            self._feed.poll()

    def _run(self) -> None:
        while not self._ended.wait(FLUSH_S):
            self.try_flush()


def default_quota(settings: Settings) -> Quota:
    """The limits of a tenant for which none are set."""
    return Quota(
        max_adapters=settings.tenant_max_adapters,
        max_bytes=settings.tenant_max_bytes,
        max_rank=settings.max_adapter_rank,
        requests_per_minute=settings.tenant_requests_per_minute,
        tokens_per_minute=settings.tenant_tokens_per_minute,
        max_concurrent=settings.tenant_max_concurrent,
    )
