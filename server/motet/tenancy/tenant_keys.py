"""Keys as they are stored: several per tenant, each with scopes, a label and maybe an end."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from motet_database import Database, record
from motet_database.tables import keys
from sqlalchemy import Connection, delete, insert, select, update

from motet.errors import RequestRefused, TenantNotFound
from motet.tenancy.keys import key_digest, key_id, new_key
from motet.tenancy.scopes import USUAL_SCOPES, checked_scopes

_MAX_LABEL_CHARS = 200
_MAX_GRACE_S = 90 * 24 * 3600


@dataclass(frozen=True)
class Key:
    """What is known of a key; not the key. Times are unix seconds."""

    id: str
    scopes: tuple[str, ...]
    label: str
    created: int
    expires_at: int | None  # None: never
    last_used: int | None  # to about a minute; None: never


class TenantKeys:
    """The keys of tenants, who are told by id. Safe to call from any thread.

    `changed` is called after each change, once it is committed.
    """

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        self._database = database
        self._changed = changed

    def list(self, tenant: str) -> Sequence[Key]:
        """A tenant's keys, oldest first, those that have expired too."""
        query = select(keys).where(keys.c.tenant == tenant).order_by(keys.c.created, keys.c.id)
        with self._database.read() as db:
            return [
                Key(
                    row.id,
                    tuple(row.scopes),
                    row.label,
                    row.created,
                    row.expires_at,
                    row.last_used,
                )
                for row in db.execute(query)
            ]

    def create(
        self,
        tenant: str,
        *,
        scopes: Iterable[str] = USUAL_SCOPES,
        label: str = "",
        expires_at: int | None = None,
        actor: str = "operator",
    ) -> tuple[Key, str]:
        """A further key, and the one time it can be shown. Raises RequestRefused."""
        allowed = checked_scopes(scopes)
        _require_label(label)
        _require_future(expires_at)
        with self._database.write() as db:
            made = insert_key(
                db, tenant=tenant, scopes=allowed, label=label, expires_at=expires_at, actor=actor
            )
        self._changed()
        return made

    def rotate(
        self, tenant: str, id: str, *, grace_s: int = 0, actor: str = "operator"
    ) -> tuple[Key, str]:
        """A new key in place of one: same scopes and label, and as long a life from now on.

        The old one works for `grace_s` seconds more. Raises TenantNotFound, RequestRefused.
        """
        if not 0 <= grace_s <= _MAX_GRACE_S:
            raise RequestRefused(
                f"grace_s must be from 0 to {_MAX_GRACE_S} seconds.", "invalid_grace", "grace_s"
            )
        now = int(time.time())
        old = (keys.c.tenant == tenant) & (keys.c.id == id)
        with self._database.write() as db:
            row = db.execute(select(keys).where(old)).one_or_none()
            if row is None:
                raise _no_key()
            life = None if row.expires_at is None else max(row.expires_at - row.created, 1)
            made = insert_key(
                db,
                tenant=tenant,
                scopes=row.scopes,
                label=row.label,
                expires_at=None if life is None else now + life,
                actor=actor,
            )
            if grace_s:
                end = min(now + grace_s, row.expires_at or now + grace_s)
                db.execute(update(keys).where(old).values(expires_at=end))
            else:
                db.execute(delete(keys).where(old))
            detail = {"new": made[0].id, "grace_s": grace_s}
            record(db, actor=actor, action="key.rotated", tenant=tenant, subject=id, detail=detail)
        self._changed()
        return made

    def revoke(self, tenant: str, id: str, *, actor: str = "operator") -> None:
        """Ends one key of a tenant. Raises TenantNotFound."""
        with self._database.write() as db:
            ended = delete(keys).where(keys.c.tenant == tenant, keys.c.id == id)
            if not db.execute(ended).rowcount:
                raise _no_key()
            record(db, actor=actor, action="key.revoked", tenant=tenant, subject=id)
        self._changed()

    def new_admin_key(self, *, actor: str = "operator") -> str:
        """Makes the operator's key, in place of any older one, and returns it."""
        with self._database.write() as db:
            db.execute(delete(keys).where(keys.c.tenant.is_(None)))
            _, secret = insert_key(db, tenant=None, scopes=["admin"], actor=actor)
        self._changed()
        return secret


def insert_key(
    db: Connection,
    *,
    tenant: str | None,
    scopes: Iterable[str],
    actor: str,
    label: str = "",
    expires_at: int | None = None,
) -> tuple[Key, str]:
    """Stores a fresh key (a tenant's, or the operator's for None) and returns it, and what is
    known of it."""
    secret = new_key()
    digest = key_digest(secret)
    assert digest is not None
    key = Key(key_id(digest), tuple(scopes), label, int(time.time()), expires_at, None)
    row = {"digest": digest, "id": key.id, "tenant": tenant, "scopes": list(key.scopes)}
    dates = {"created": key.created, "expires_at": expires_at}
    db.execute(insert(keys), {**row, **dates, "label": label})
    detail = {"scopes": list(key.scopes), "expires_at": expires_at}
    record(db, actor=actor, action="key.created", tenant=tenant, subject=key.id, detail=detail)
    return key, secret


def _require_label(label: str) -> None:
    if len(label) > _MAX_LABEL_CHARS or not (label.isprintable() or not label):
        raise RequestRefused(
            f"A label is up to {_MAX_LABEL_CHARS} printable characters.", "invalid_label", "label"
        )


def _require_future(expires_at: int | None) -> None:
    if expires_at is not None and not time.time() < expires_at < 1 << 40:
        raise RequestRefused(
            "expires_at must lie in the future, in seconds since 1970.",
            "invalid_expiry",
            "expires_at",
        )


def _no_key() -> TenantNotFound:
    return TenantNotFound(
        "This tenant has no key with that id; list its keys to see their ids.", "key_not_found"
    )
