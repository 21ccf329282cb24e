"""What a tenant may have and use at most."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from motet_database import Database, record
from motet_database.tables import adapters, blobs, quotas, tenants, versions
from sqlalchemy import Connection, func, insert, select, update

from motet.errors import Forbidden, QuotaExceeded, RequestRefused, TenantNotFound

_MOST = 1 << 53  # what a JSON reader keeps exact


@dataclass(frozen=True)
class Quota:
    """None: no limit, or for one tenant the server's default."""

    max_adapters: int | None = None  # names
    max_bytes: int | None = None  # of both files, of all versions
    max_rank: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # prompts and answers
    max_concurrent: int | None = None  # requests for text under way

    def over(self, default: "Quota") -> "Quota":
        """This one, with the default where it says nothing."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(default, **own)


LIMITS: tuple[str, ...] = tuple(each.name for each in fields(Quota))
_MAY_BE_ZERO = frozenset({"max_adapters", "max_bytes"})


class Quotas:
    """The limits of each tenant, by id. Safe to call from any thread."""

    def __init__(self, database: Database, default: Quota, changed: Callable[[], None]) -> None:
        self.default = default
        self._database = database
        self._changed = changed

    def get(self, tenant: str) -> Quota:
        """What is set for this tenant alone."""
        with self._database.read() as db:
            return own_quota(db, tenant)

    def set(
        self, tenant: str, limits: Mapping[str, int | None], *, actor: str = "operator"
    ) -> Quota:
        """Changes the limits named; None goes back to the default. Returns what is set then.

        Raises RequestRefused, TenantNotFound.
        """
        for name, value in limits.items():
            _require_limit(name, value)
        with self._database.write() as db:
            alive = select(tenants.c.id).where(tenants.c.id == tenant, tenants.c.state != "deleted")
            if db.execute(alive).scalar() is None:
                raise TenantNotFound("There is no such tenant.", "tenant_not_found")
            known = db.execute(select(quotas.c.tenant).where(quotas.c.tenant == tenant)).scalar()
            if known is None:
                db.execute(insert(quotas), {"tenant": tenant, **limits})
            elif limits:
                db.execute(update(quotas).where(quotas.c.tenant == tenant).values(**limits))
            record(db, actor=actor, action="quota.set", tenant=tenant, detail=dict(limits))
            quota = own_quota(db, tenant)
        self._changed()
        return quota

    def require_room(
        self, db: Connection, tenant: str, *, source_bytes: int, rank: int, is_new_name: bool
    ) -> None:
        """Whether one more version may be stored, in the transaction that stores it.

        source_bytes: of the new version; rank: its largest. Raises QuotaExceeded, and Forbidden
        for a tenant that was suspended or deleted while its upload was on its way.
        """
        state = db.execute(select(tenants.c.state).where(tenants.c.id == tenant)).scalar()
        if state not in (None, "active"):  # None: the tenant of a server without tenants
            raise Forbidden("The tenant was suspended or deleted meanwhile; ask the operator.")
        quota = own_quota(db, tenant).over(self.default)
        if quota.max_rank is not None and rank > quota.max_rank:
            raise _over(f"The adapter's rank is {rank}; you may use ranks up to {quota.max_rank}.")
        if quota.max_adapters is not None and is_new_name:
            count = select(func.count()).select_from(adapters).where(adapters.c.tenant == tenant)
            if db.execute(count).scalar_one() >= quota.max_adapters:
                raise _over(
                    f"You may keep {quota.max_adapters} adapters; delete one, or replace one."
                )
        if quota.max_bytes is not None:
            stored = _stored_bytes(db, tenant)
            if stored + source_bytes > quota.max_bytes:
                raise _over(
                    f"You may store {quota.max_bytes} bytes and have {stored}; this upload needs "
                    f"{source_bytes} more. Delete adapters or old versions."
                )


def own_quota(db: Connection, tenant: str) -> Quota:
    """What is set for one tenant alone."""
    row = db.execute(select(quotas).where(quotas.c.tenant == tenant)).mappings().one_or_none()
    return Quota() if row is None else quota_of(row)


def quota_of(row: Mapping[Any, Any]) -> Quota:
    """From a row with the columns of the table `quotas`."""
    return Quota(**{name: row[name] for name in LIMITS})


def _stored_bytes(db: Connection, tenant: str) -> int:
    query = select(func.sum(blobs.c.source_bytes)).select_from(versions.join(blobs))
    return int(db.execute(query.where(versions.c.tenant == tenant)).scalar() or 0)


def _require_limit(name: str, value: int | None) -> None:
    if name not in LIMITS:
        raise RequestRefused(
            f"{name[:40]!a} is not a limit; there are {', '.join(LIMITS)}.", "unknown_limit"
        )
    least = 0 if name in _MAY_BE_ZERO else 1
    if value is not None and not least <= value <= _MOST:
        raise RequestRefused(
            f"{name} must be at least {least}, or unset for the server's default.",
            "invalid_limit",
            name,
        )


def _over(sentence: str) -> QuotaExceeded:
    return QuotaExceeded(f"{sentence} Ask the server's operator for more.", "quota_exceeded")
