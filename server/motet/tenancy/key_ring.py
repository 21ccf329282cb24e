"""Keys, tenants' states and quotas in memory, so that no request waits for the database."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from motet_database import Change, Database
from motet_database.tables import keys, quotas, tenants
from sqlalchemy import ColumnElement, Connection, select, true

from motet.tenancy.keys import key_digest, same_key
from motet.tenancy.quotas import Quota, quota_of

_OBJECTS = frozenset({"tenant", "key", "quota"})


@dataclass(frozen=True)
class Caller:
    """Who sent a request. `tenant` is an id; key_id is None where no key is needed."""

    tenant: str
    key_id: str | None
    scopes: frozenset[str]

    @property
    def actor(self) -> str:
        """How the audit log names the caller."""
        return "key:none" if self.key_id is None else f"key:{self.key_id}"


@dataclass(frozen=True)
class _KnownKey:
    digest: bytes
    id: str
    tenant: str | None  # None: the operator's
    scopes: frozenset[str]
    expires_at: int | None


@dataclass(frozen=True)
class _KnownTenant:
    name: str
    state: str
    quota: Quota  # what is set for it alone


class KeyRing:
    """Everything `authenticate` needs. Safe to use from any thread.

    Kept current by a change feed, made before this: then what another process changes counts as
    soon as the feed has seen it. A key that was made a moment ago by the command line, beside a
    file, is found at once: whoever made it uses it next.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[bytes, _KnownKey] = {}
        self._tenants: dict[str, _KnownTenant] = {}
        self._last_used: dict[str, int] = {}
        self._used: dict[str, int] = {}  # not taken yet
        self._using = threading.Lock()
        # From reading rows until they are in place: an older reading must not undo a newer one.
        self._reading = threading.Lock()
        with database.read() as db:
            for id, tenant in _tenants(db, true()):
                self._tenants[id] = tenant
            for key in _keys(db, true()):
                self._keys[key.digest] = key

    def authenticate(self, key: str) -> Caller | None:
        """Whose key this is; None unless it is a living key of an active tenant.

        Raises DatabaseUnavailable, for an unknown key beside a file.
        """
        found = self._find(key)
        if found is None or found.tenant is None:
            return None
        tenant = self._tenants.get(found.tenant)
        if tenant is None or tenant.state != "active":
            return None
        self._note_use(found.id)
        return Caller(found.tenant, found.id, found.scopes)

    def is_admin(self, key: str) -> bool:
        """Whether this is the operator's key that was made last."""
        found = self._find(key)
        return found is not None and found.tenant is None

    def has_admin_key(self) -> bool:
        """Whether the operator ever made a key."""
        return any(key.tenant is None for key in list(self._keys.values()))

    def configured(self) -> bool:
        """Whether a tenant was ever created: from then on every request needs a key."""
        return bool(self._tenants)

    def name(self, tenant: str) -> str:
        """What the tenant with that id is called now; the id itself where no row has it."""
        known = self._tenants.get(tenant)
        return tenant if known is None else known.name

    def quota(self, tenant: str) -> Quota:
        """What is set for this tenant alone."""
        known = self._tenants.get(tenant)
        return Quota() if known is None else known.quota

    def take_used(self) -> dict[str, int]:
        """Key id -> when it was last used (unix seconds), of the keys used since the last call, to
        the minute."""
        with self._using:
            used, self._used = self._used, {}
        return used

    def take_over(self, changes: Sequence[Change]) -> None:
        """Reads again whom the changes are about. Raises DatabaseUnavailable."""
        named = {each.tenant for each in changes if each.action.split(".")[0] in _OBJECTS}
        with self._reading, self._database.read() as db:
            for tenant in named:
                self._read_again(db, tenant)

    def _look_up(self, digest: bytes) -> _KnownKey | None:
        """A key that memory does not hold; one short read."""
        with self._reading, self._database.read() as db:
            row = db.execute(select(keys.c.tenant).where(keys.c.digest == digest)).one_or_none()
            if row is not None:
                self._read_again(db, row.tenant)
        return self._keys.get(digest)

    def _read_again(self, db: Connection, tenant: str | None) -> None:
        if tenant is not None:
            for id, known in _tenants(db, tenants.c.id == tenant):
                self._tenants[id] = known
        fresh = {key.digest: key for key in _keys(db, keys.c.tenant == tenant)}
        # Added before the ended ones go, so that a key that stays is never missing in between.
        self._keys.update(fresh)
        for key in list(self._keys.values()):
            if key.tenant == tenant and key.digest not in fresh:
                del self._keys[key.digest]

    def _note_use(self, id: str) -> None:
        minute = int(time.time()) // 60 * 60
        if self._last_used.get(id) != minute:
            with self._using:
                self._last_used[id] = self._used[id] = minute

    def _find(self, key: str) -> _KnownKey | None:
        digest = key_digest(key)
        if digest is None:
            return None
        found = self._keys.get(digest)
        # Not over a network: the event loop would wait, as often as a stranger likes.
        if found is None and not self._database.is_shared:
            found = self._look_up(digest)
        if found is None or not same_key(digest, found.digest):
            return None
        return None if found.expires_at is not None and found.expires_at <= time.time() else found


def _tenants(db: Connection, where: ColumnElement[bool]) -> list[tuple[str, _KnownTenant]]:
    query = select(tenants.c.id, tenants.c.name, tenants.c.state, quotas).outerjoin_from(
        tenants, quotas
    )
    return [
        (row["id"], _KnownTenant(row["name"], row["state"], quota_of(row)))
        for row in db.execute(query.where(where)).mappings()
    ]


def _keys(db: Connection, where: ColumnElement[bool]) -> list[_KnownKey]:
    query = select(keys.c.digest, keys.c.id, keys.c.tenant, keys.c.scopes, keys.c.expires_at)
    return [
        _KnownKey(row.digest, row.id, row.tenant, frozenset(row.scopes), row.expires_at)
        for row in db.execute(query.where(where))
    ]
