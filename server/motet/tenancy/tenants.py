"""The tenants of a server and their keys.

Every question reads the database, so what another process changes (the command line beside a
running server) counts from its commit on: there is no cache that could outlive a revocation.
"""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from motet_database import Database, record
from motet_database.tables import keys, tenants
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from motet.errors import RequestRefused, TenantExists, TenantNotFound
from motet.tenancy.keys import key_digest, key_id, new_key, same_key

DEFAULT_TENANT = "default"
"""The tenant of every request while no tenant is configured."""

# The rule of adapter names, so that tenant and adapter names can be told the same way.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TENANT_SCOPES = ("infer", "upload")
_ADMIN_SCOPES = ("admin",)


@dataclass(frozen=True)
class Tenant:
    """One tenant. `key_ids` name its keys, oldest first; the keys themselves are not kept.

    `id` is what everything that belongs to it is stored under; the name may change.
    """

    id: str
    name: str
    created: int  # unix seconds
    revoked: int | None  # unix seconds; None: active
    key_ids: tuple[str, ...]


class Tenants:
    """Tenants and keys in the database, which stays the caller's to close. Safe to call from any
    thread.

    A revoked tenant keeps its name: nobody else can take it, and with it the adapters stored
    under it. `rotate` brings it back.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, *, actor: str = "operator") -> tuple[Tenant, str]:
        """Adds a tenant and returns it with its first key, which cannot be shown again.

        `actor`, here and below, is who the audit log names. Raises RequestRefused for a name
        outside the rule, TenantExists for one in use.
        """
        require_tenant_name(name)
        now = int(time.time())
        with self._database.write() as db:
            state = db.execute(select(tenants.c.state).where(_named(name))).scalar()
            if state is not None:
                raise TenantExists(_exists(name, revoked=state != "active"), "tenant_exists")
            id = _free_id(db, name)
            row = {"id": id, "name": name, "state": "active", "state_since": now, "created": now}
            db.execute(insert(tenants), row)
            record(db, actor=actor, action="tenant.created", tenant=id, detail={"name": name})
            key = _insert_key(db, id, now, actor)
        return self.get(name), key

    def get(self, name: str) -> Tenant:
        """The tenant of that name, revoked or not. Raises TenantNotFound."""
        found = self._select(_named(name))
        if not found:
            raise _not_found(name)
        return found[0]

    def list(self) -> Sequence[Tenant]:
        """Every tenant, revoked ones too, by name."""
        return self._select(tenants.c.state != "deleted")

    def add_key(self, name: str, *, actor: str = "operator") -> str:
        """A further key for an active tenant, beside those it has. Raises TenantNotFound."""
        with self._database.write() as db:
            query = select(tenants.c.id).where(_named(name), tenants.c.state == "active")
            id = db.execute(query).scalar()
            if id is None:
                raise _not_found(name)
            return _insert_key(db, id, int(time.time()), actor)

    def rotate(self, name: str, *, actor: str = "operator") -> str:
        """Ends all keys of a tenant and returns its one new key; a revoked tenant is active again.

        Raises TenantNotFound.
        """
        now = int(time.time())
        with self._database.write() as db:
            id = _require(db, name)
            _set_state(db, id, "active", now, actor)
            _delete_keys(db, id, actor)
            return _insert_key(db, id, now, actor)

    def revoke(self, name: str, *, actor: str = "operator") -> None:
        """Ends a tenant and all its keys, from this moment on. Raises TenantNotFound."""
        with self._database.write() as db:
            id = _require(db, name)
            _delete_keys(db, id, actor)
            _set_state(db, id, "suspended", int(time.time()), actor)

    def revoke_key(self, name: str, id: str, *, actor: str = "operator") -> None:
        """Ends one key of a tenant, from this moment on. Raises TenantNotFound."""
        with self._database.write() as db:
            tenant = db.execute(select(tenants.c.id).where(_named(name))).scalar()
            ended = delete(keys).where(keys.c.tenant == tenant, keys.c.id == id)
            if tenant is None or not db.execute(ended).rowcount:
                raise TenantNotFound(
                    "This tenant has no key with that id; list the tenants to see their key ids.",
                    "key_not_found",
                )
            record(db, actor=actor, action="key.revoked", tenant=tenant, subject=id)

    def authenticate(self, key: str) -> str | None:
        """The id of the active tenant this key belongs to; None for a key nobody has."""
        digest = key_digest(key)
        if digest is None:
            return None
        query = (
            select(keys.c.digest, keys.c.tenant)
            .join(tenants)
            .where(keys.c.digest == digest, tenants.c.state == "active")
        )
        with self._database.read() as db:
            row = db.execute(query).one_or_none()
        return str(row.tenant) if row is not None and same_key(digest, row.digest) else None

    def configured(self) -> bool:
        """Whether a tenant was ever created: from then on every request needs a key.

        Revoked tenants count, so that revoking the last one does not open the server to all.
        """
        with self._database.read() as db:
            return db.execute(select(tenants.c.id).limit(1)).scalar() is not None

    def new_admin_key(self, *, actor: str = "operator") -> str:
        """Makes the admin key, in place of any older one, and returns it; it is kept hashed."""
        with self._database.write() as db:
            db.execute(delete(keys).where(keys.c.tenant.is_(None)))
            return _insert_key(db, None, int(time.time()), actor)

    def is_admin(self, key: str) -> bool:
        """Whether this is the admin key that `new_admin_key` made last."""
        digest = key_digest(key)
        if digest is None:
            return False
        query = select(keys.c.digest).where(keys.c.digest == digest, keys.c.tenant.is_(None))
        with self._database.read() as db:
            found = db.execute(query).scalar()
        return found is not None and same_key(digest, found)

    def has_admin_key(self) -> bool:
        """Whether `new_admin_key` was ever called on this database."""
        with self._database.read() as db:
            query = select(keys.c.id).where(keys.c.tenant.is_(None)).limit(1)
            return db.execute(query).scalar() is not None

    def _select(self, where: ColumnElement[bool]) -> Sequence[Tenant]:
        of_tenants = select(tenants).where(where).order_by(tenants.c.name)
        ids: dict[str, list[str]] = {}
        with self._database.read() as db:
            rows = db.execute(of_tenants).all()
            of_keys = select(keys.c.tenant, keys.c.id).order_by(keys.c.created, keys.c.id)
            for tenant, id in db.execute(of_keys):
                ids.setdefault(tenant, []).append(id)
        return [
            Tenant(
                id=row.id,
                name=row.name,
                created=row.created,
                revoked=None if row.state == "active" else row.state_since,
                key_ids=tuple(ids.get(row.id, ())),
            )
            for row in rows
        ]


def _named(name: str) -> ColumnElement[bool]:
    return (tenants.c.name == name) & (tenants.c.state != "deleted")


def _require(db: Connection, name: str) -> str:
    """The id of the tenant of that name. Raises TenantNotFound."""
    id = db.execute(select(tenants.c.id).where(_named(name))).scalar()
    if id is None:
        raise _not_found(name)
    return str(id)


def _free_id(db: Connection, name: str) -> str:
    """The name itself, so that people can read it; with a suffix where a tenant had it before."""
    id = name
    while db.execute(select(tenants.c.id).where(tenants.c.id == id)).scalar() is not None:
        id = f"{name[:55]}-{secrets.token_hex(4)}"
    return id


def _set_state(db: Connection, id: str, state: str, now: int, actor: str) -> None:
    changed = update(tenants).where(tenants.c.id == id, tenants.c.state != state)
    if db.execute(changed.values(state=state, state_since=now)).rowcount:
        action = "tenant.resumed" if state == "active" else f"tenant.{state}"
        record(db, actor=actor, action=action, tenant=id)


def _delete_keys(db: Connection, tenant: str, actor: str) -> None:
    for id in db.execute(select(keys.c.id).where(keys.c.tenant == tenant)).scalars().all():
        record(db, actor=actor, action="key.revoked", tenant=tenant, subject=id)
    db.execute(delete(keys).where(keys.c.tenant == tenant))


def _insert_key(db: Connection, tenant: str | None, now: int, actor: str) -> str:
    """A new key: a tenant's, or the operator's for None."""
    key = new_key()
    digest = key_digest(key)
    assert digest is not None
    id = key_id(digest)
    scopes = list(_ADMIN_SCOPES if tenant is None else _TENANT_SCOPES)
    row = {"digest": digest, "id": id, "tenant": tenant, "scopes": scopes, "label": ""}
    db.execute(insert(keys), {**row, "created": now})
    record(db, actor=actor, action="key.created", tenant=tenant, subject=id)
    return key


def require_tenant_name(name: str) -> None:
    """Raises RequestRefused unless `name` is a legal tenant name."""
    if not _NAME.fullmatch(name):
        raise RequestRefused(
            f"{name[:80]!a} is not a valid tenant name: use 1 to 64 of the characters a-z, "
            "0-9, '.', '_' and '-', beginning with a letter or digit.",
            "invalid_name",
            "name",
        )


def _exists(name: str, *, revoked: bool) -> str:
    if revoked:
        return (
            f"The name {name!r} belongs to a revoked tenant, whose adapters are still stored "
            "under it. Rotate its key to bring it back, or choose another name."
        )
    return f"There is a tenant named {name!r} already; choose another name, or rotate its key."


def _not_found(name: str) -> TenantNotFound:
    return TenantNotFound(f"There is no tenant named {name[:80]!a}.", "tenant_not_found")
