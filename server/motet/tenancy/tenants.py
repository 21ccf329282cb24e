"""The tenants of a server: made, renamed, suspended, deleted."""

import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from motet_database import Database, record
from motet_database.adapter_rows import delete_adapters_of
from motet_database.tables import keys, quotas, tenants
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from motet.errors import RequestRefused, TenantExists, TenantNotFound
from motet.tenancy.scopes import USUAL_SCOPES, checked_scopes
from motet.tenancy.tenant_keys import insert_key

DEFAULT_TENANT = "default"
"""The tenant of every request while no tenant is configured."""

# The rule of adapter names, so that tenant and adapter names can be told the same way.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Tenant:
    """One tenant. `key_ids` name its keys, oldest first; the keys themselves are not kept.

    `id` is what everything that belongs to it is stored under; the name may change.
    """

    id: str
    name: str
    state: str  # "active" or "suspended"
    state_since: int  # unix seconds
    created: int  # unix seconds
    key_ids: tuple[str, ...]


def nothing() -> None:
    """For those who need not be told of a change."""


class Tenants:
    """Tenants in the database, which stays the caller's to close. Safe to call from any thread.

    `changed` is called after each change, once it is committed. `actor`, in every method, is who
    the audit log names.
    """

    def __init__(self, database: Database, changed: Callable[[], None] = nothing) -> None:
        self._database = database
        self._changed = changed

    def create(
        self, name: str, *, scopes: Iterable[str] = USUAL_SCOPES, actor: str = "operator"
    ) -> tuple[Tenant, str]:
        """Adds a tenant and returns it with its first key, which cannot be shown again.

        Raises RequestRefused for a name outside the rule or an unknown scope, TenantExists for a
        name in use.
        """
        require_tenant_name(name)
        allowed = checked_scopes(scopes)
        now = int(time.time())
        with self._database.write() as db:
            _require_free(db, name)
            id = _free_id(db, name)
            row = {"id": id, "name": name, "state": "active", "state_since": now, "created": now}
            db.execute(insert(tenants), row)
            record(db, actor=actor, action="tenant.created", tenant=id, detail={"name": name})
            _, secret = insert_key(db, tenant=id, scopes=allowed, actor=actor)
        self._changed()
        return self.get(name), secret

    def get(self, name: str) -> Tenant:
        """The tenant of that name, suspended or not. Raises TenantNotFound."""
        found = self._select(_named(name))
        if not found:
            raise _not_found(name)
        return found[0]

    def list(self) -> Sequence[Tenant]:
        """Every tenant that is not deleted, by name."""
        return self._select(tenants.c.state != "deleted")

    def rename(self, name: str, new: str, *, actor: str = "operator") -> Tenant:
        """Another name for the same tenant: keys, adapters and usage stay with it.

        Raises TenantNotFound, RequestRefused, TenantExists.
        """
        require_tenant_name(new)
        with self._database.write() as db:
            id = _require(db, name)
            if new != name:
                _require_free(db, new)
                db.execute(update(tenants).where(tenants.c.id == id).values(name=new))
                detail = {"from": name, "to": new}
                record(db, actor=actor, action="tenant.renamed", tenant=id, detail=detail)
        self._changed()
        return self.get(new)

    def suspend(self, name: str, *, actor: str = "operator") -> Tenant:
        """It keeps everything and may do nothing, until `resume`. Raises TenantNotFound."""
        return self._turn(name, "suspended", actor)

    def resume(self, name: str, *, actor: str = "operator") -> Tenant:
        """Its keys work again. Raises TenantNotFound."""
        return self._turn(name, "active", actor)

    def delete(self, name: str, *, actor: str = "operator") -> str:
        """Ends a tenant and everything it has, for good; returns its id, never used again.

        Keys, quota and the rows of its adapters go in one transaction; the adapters' bytes go
        when the store finds that no version names them. Usage and audit log stay. The name is
        free again. Raises TenantNotFound.
        """
        now = int(time.time())
        with self._database.write() as db:
            id = _require(db, name)
            gone = update(tenants).where(tenants.c.id == id)
            db.execute(gone.values(state="deleted", state_since=now))
            for table in (keys, quotas):
                db.execute(delete(table).where(table.c.tenant == id))
            delete_adapters_of(db, id, actor=actor)
            record(db, actor=actor, action="tenant.deleted", tenant=id, detail={"name": name})
        self._changed()
        return id

    def rotate(
        self, name: str, *, scopes: Iterable[str] = USUAL_SCOPES, actor: str = "operator"
    ) -> str:
        """Ends all keys of a tenant at once and returns its one new key. Raises TenantNotFound."""
        allowed = checked_scopes(scopes)
        with self._database.write() as db:
            id = _require(db, name)
            mine = keys.c.tenant == id
            for ended in db.execute(select(keys.c.id).where(mine)).scalars().all():
                record(db, actor=actor, action="key.revoked", tenant=id, subject=ended)
            db.execute(delete(keys).where(mine))
            _, secret = insert_key(db, tenant=id, scopes=allowed, actor=actor)
        self._changed()
        return secret

    def configured(self) -> bool:
        """Whether a tenant was ever created: from then on every request needs a key.

        Suspended and deleted ones count, so that ending the last one does not open the server.
        """
        with self._database.read() as db:
            return db.execute(select(tenants.c.id).limit(1)).scalar() is not None

    def _turn(self, name: str, state: str, actor: str) -> Tenant:
        with self._database.write() as db:
            id = _require(db, name)
            change = update(tenants).where(tenants.c.id == id, tenants.c.state != state)
            if db.execute(change.values(state=state, state_since=int(time.time()))).rowcount:
                action = "tenant.resumed" if state == "active" else "tenant.suspended"
                record(db, actor=actor, action=action, tenant=id)
        self._changed()
        return self.get(name)

    def _select(self, where: ColumnElement[bool]) -> Sequence[Tenant]:
        of_tenants = select(tenants).where(where).order_by(tenants.c.name)
        of_keys = select(keys.c.tenant, keys.c.id).order_by(keys.c.created, keys.c.id)
        ids: dict[str, list[str]] = {}
        with self._database.read() as db:
            rows: Sequence[Any] = db.execute(of_tenants).all()
            for tenant, id in db.execute(of_keys):
                ids.setdefault(tenant, []).append(id)
        return [
            Tenant(
                row.id,
                row.name,
                row.state,
                row.state_since,
                row.created,
                tuple(ids.get(row.id, ())),
            )
            for row in rows
        ]


def require_tenant_name(name: str) -> None:
    """Raises RequestRefused unless `name` is a legal tenant name."""
    if not _NAME.fullmatch(name):
        raise RequestRefused(
            f"{name[:80]!a} is not a valid tenant name: use 1 to 64 of the characters a-z, "
            "0-9, '.', '_' and '-', beginning with a letter or digit.",
            "invalid_name",
            "name",
        )


def _named(name: str) -> ColumnElement[bool]:
    return (tenants.c.name == name) & (tenants.c.state != "deleted")


def _require(db: Connection, name: str) -> str:
    """The id of the tenant of that name. Raises TenantNotFound."""
    id = db.execute(select(tenants.c.id).where(_named(name))).scalar()
    if id is None:
        raise _not_found(name)
    return str(id)


def _require_free(db: Connection, name: str) -> None:
    state = db.execute(select(tenants.c.state).where(_named(name))).scalar()
    if state == "suspended":
        raise TenantExists(
            f"The name {name!r} belongs to a suspended tenant, whose adapters are still stored. "
            "Resume it, or choose another name.",
            "tenant_exists",
        )
    if state is not None:
        raise TenantExists(
            f"There is a tenant named {name!r} already; choose another name.", "tenant_exists"
        )


def _free_id(db: Connection, name: str) -> str:
    """The name itself, so that people can read it; with a suffix where a tenant had it before."""
    id = name
    while db.execute(select(tenants.c.id).where(tenants.c.id == id)).scalar() is not None:
        id = f"{name[:55]}-{secrets.token_hex(4)}"
    return id


def _not_found(name: str) -> TenantNotFound:
    return TenantNotFound(f"There is no tenant named {name[:80]!a}.", "tenant_not_found")
