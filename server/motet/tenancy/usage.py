"""Who used how much: counted in memory, written to the database every few seconds."""

import threading
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from motet_database import Database
from motet_database.tables import keys, usage
from sqlalchemy import Connection, insert, update

_HOUR_S = 3600
_Key = tuple[str, str, int]


@dataclass(frozen=True)
class Amount:
    """What was used of one adapter (or of the base)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uploaded_bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class UsageMeter:
    """Adds up per tenant (by id), adapter ("": the base) and hour. Safe to call from any thread.

    What was added since the last `flush` is lost if the process is killed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._adding = threading.Lock()
        self._flushing = threading.Lock()
        self._waiting: dict[_Key, Amount] = {}
        self._totals: dict[tuple[str, str], Amount] = {}

    def add(self, tenant: str, adapter: str | None, amount: Amount) -> None:
        """adapter: None for the base. Only memory is touched."""
        name = adapter or ""
        hour = int(time.time()) // _HOUR_S * _HOUR_S
        with self._adding:
            self._add_waiting((tenant, name, hour), amount)
            self._totals[tenant, name] = self._totals.get((tenant, name), Amount()) + amount

    def totals(self) -> Mapping[tuple[str, str], Amount]:
        """(tenant id, adapter) -> what was used through this process since it started."""
        with self._adding:
            return dict(self._totals)

    def flush(self, used: Mapping[str, int] | None = None) -> None:
        """Writes what has been added; `used`: key id -> when it was last used, written with it.

        Raises DatabaseUnavailable, DatabaseFull; then the amounts are kept for the next time.
        """
        with self._flushing:
            with self._adding:
                amounts, self._waiting = self._waiting, {}
            if not amounts and not used:
                return
            try:
                with self._database.write() as db:
                    for key, amount in amounts.items():
                        _add(db, key, amount)
                    for id, at in (used or {}).items():
                        db.execute(update(keys).where(keys.c.id == id).values(last_used=at))
            except BaseException:
                with self._adding:
                    for key, amount in amounts.items():
                        self._add_waiting(key, amount)
                raise

    def _add_waiting(self, key: _Key, amount: Amount) -> None:
        self._waiting[key] = self._waiting.get(key, Amount()) + amount


def _add(db: Connection, key: _Key, amount: Amount) -> None:
    """The one writer at a time makes "update, else insert" safe."""
    tenant, adapter, hour = key
    row = (usage.c.tenant == tenant) & (usage.c.adapter == adapter) & (usage.c.hour == hour)
    grown = {name: usage.c[name] + value for name, value in vars(amount).items()}
    if not db.execute(update(usage).where(row).values(grown)).rowcount:
        here = {"tenant": tenant, "adapter": adapter, "hour": hour}
        db.execute(insert(usage), {**here, **vars(amount)})
