"""What the names of tenants stand for: looked up in memory, changed in the registry first."""

import threading
from collections.abc import Callable, Sequence

from motet_database import Change
from sqlalchemy import Connection

from motet_adapters.adapter import Adapter
from motet_adapters.condition import UNCONDITIONAL, Condition
from motet_adapters.index import Index
from motet_adapters.registry import Registry
from motet_adapters.versions import Versions


class Catalog:
    """The half of the store that needs no files. Thread-safe; look-ups read memory only.

    writer: the store's lock on all changes. collect: told, under it, of each digest that nothing
    holds any more.
    """

    def __init__(
        self,
        registry: Registry,
        index: Index,
        writer: threading.Lock,
        collect: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._index = index
        self._writer = writer
        self._collect_unheld = collect

    def get(self, tenant: str, name: str) -> Adapter:
        """What the name serves. Raises AdapterNotFound."""
        return self._index.get(tenant, name).current

    def versions(self, tenant: str, name: str) -> Versions:
        """All kept versions of a name. Raises AdapterNotFound."""
        return self._index.get(tenant, name)

    def page(
        self, tenant: str, after: str | None = None, limit: int | None = None
    ) -> tuple[Sequence[Adapter], bool]:
        """What up to `limit` names after `after` serve, by name, and whether more follow."""
        return self._index.page(tenant, after, limit)

    def __len__(self) -> int:
        """Names of all tenants."""
        return len(self._index)

    def roll_back(
        self,
        tenant: str,
        name: str,
        number: int | None = None,
        *,
        condition: Condition = UNCONDITIONAL,
        actor: str = "store",
    ) -> Adapter:
        """Serve another kept version from now on; None: the one before the current.

        Raises AdapterNotFound, VersionNotFound, ConditionFailed.
        """
        with self._writer:
            after = self._registry.roll_back(tenant, name, number, condition, actor)
            self._note(tenant, name, after)
            return after.current

    def delete(
        self,
        tenant: str,
        name: str,
        *,
        condition: Condition = UNCONDITIONAL,
        actor: str = "store",
    ) -> None:
        """Unpublish all versions. The bytes go now, or when the last lease ends.

        Raises AdapterNotFound, ConditionFailed.
        """
        with self._writer:
            self._registry.delete(tenant, name, condition, actor)
            self._note(tenant, name, None)

    def delete_version(
        self,
        tenant: str,
        name: str,
        number: int,
        *,
        condition: Condition = UNCONDITIONAL,
        actor: str = "store",
    ) -> None:
        """Of the current one, the newest left is served from now on; of the last one, the name
        goes too. Raises AdapterNotFound, VersionNotFound, ConditionFailed.
        """
        with self._writer:
            after = self._registry.delete_version(tenant, name, number, condition, actor)
            self._note(tenant, name, after)

    def delete_tenant(
        self,
        tenant: str,
        *,
        actor: str = "store",
        also: Callable[[Connection], None] | None = None,
    ) -> None:
        """Unpublish all a tenant has. `also` writes in the same transaction: both or neither."""
        with self._writer:
            self._registry.delete_tenant(tenant, actor, also)
            for name in self._index.names(tenant):
                self._note(tenant, name, None)

    def expire(self) -> None:
        """Delete what is past its end, which was not served any more anyway."""
        with self._writer:
            for tenant, name, after in self._registry.expire("store"):
                self._note(tenant, name, after)

    def list(self, tenant: str) -> Sequence[Adapter]:
        """What all names of the tenant serve, by name."""
        return self._index.page(tenant, None, None)[0]

    def follow(self, changes: Sequence[Change]) -> None:
        """Take over what this or another process has committed."""
        names: dict[str, set[str]] = {}
        for change in changes:
            tenant = change.tenant or ""
            if change.action.startswith("adapter."):
                names.setdefault(tenant, set()).add(change.subject)
            elif change.action == "tenant.deleted":
                names.setdefault(tenant, set()).update(self._index.names(tenant))
        for tenant, changed in names.items():
            # Read and noted in one go: an older state must not be noted after a newer one.
            with self._writer:
                for name, after in self._registry.find_all(tenant, changed).items():
                    self._note(tenant, name, after)

    def _note(self, tenant: str, name: str, after: Versions | None) -> None:
        """What the registry now says of a name. Under the writer lock."""
        for digest in self._index.note(tenant, name, after):
            self._collect_unheld(digest)
