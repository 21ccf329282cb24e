"""The registry's rows in memory, with the leases: what requests read, never waiting on a disk."""

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType

from motet_adapters.adapter import Adapter
from motet_adapters.errors import AdapterNotFound
from motet_adapters.versions import Versions

Clock = Callable[[], float]
"""Unix seconds."""


class Lease:
    """An adapter whose bytes stay until `release`, whatever happens to its name."""

    def __init__(self, adapter: Adapter, release: Callable[[str], None]) -> None:
        self.adapter = adapter
        self._release = release
        self._lock = threading.Lock()
        self._is_held = True

    def release(self) -> None:
        """Idempotent, from any thread; never waits on a disk."""
        with self._lock:
            was_held, self._is_held = self._is_held, False
        if was_held:
            self._release(self.adapter.digest)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Index:
    """Names of each tenant, and which versions and leases hold each digest. Thread-safe.

    A name whose current version has expired is not found, though its digests stay held until the
    registry has let go of it.
    """

    def __init__(self, names: Iterable[Versions], clock: Clock = time.time) -> None:
        self._clock = clock
        self._tenants: dict[str, dict[str, Versions]] = {}
        self._order: dict[str, list[str]] = {}  # tenant -> its names, sorted
        self._names: dict[str, set[tuple[str, str]]] = {}  # digest -> (tenant, name)
        self._weights: dict[tuple[str, str], Counter[str]] = {}  # tenant, weights -> digests
        self._leases: Counter[str] = Counter()  # digest -> leases; no zeros
        self._lock = threading.Lock()
        for versions in names:
            self._add(versions)

    def __len__(self) -> int:
        """Names of all tenants."""
        with self._lock:
            return sum(len(names) for names in self._tenants.values())

    def digests(self) -> set[str]:
        """Of all versions."""
        with self._lock:
            return set(self._names)

    def is_held(self, digest: str) -> bool:
        with self._lock:
            return self._is_held(digest)

    def get(self, tenant: str, name: str) -> Versions:
        """Raises AdapterNotFound: the same for another tenant's adapter as for none."""
        with self._lock:
            return self._get(tenant, name)

    def current_digest(self, tenant: str, name: str) -> str | None:
        """Of what a name serves now; None: there is none of the name."""
        try:
            return self.get(tenant, name).current.digest
        except AdapterNotFound:
            return None

    def page(self, tenant: str, after: str | None, limit: int | None) -> tuple[list[Adapter], bool]:
        """What up to `limit` names after `after` serve, by name, and whether more follow."""
        now = self._clock()
        page: list[Adapter] = []
        with self._lock:
            names, order = self._tenants.get(tenant, {}), self._order.get(tenant, [])
            start = 0 if after is None else bisect_right(order, after)
            for position in range(start, len(order)):
                adapter = names[order[position]].current
                if adapter.has_expired(now):
                    continue
                if len(page) == limit:
                    return page, True
                page.append(adapter)
        return page, False

    def names(self, tenant: str) -> list[str]:
        """Those expired, too."""
        with self._lock:
            return [*self._order.get(tenant, ())]

    def with_weights(self, tenant: str, weights_sha256: str) -> list[str]:
        """Digests of this tenant's versions that have this weights file.

        What others own is not even looked at: no time taken tells of it.
        """
        with self._lock:
            return [*self._weights.get((tenant, weights_sha256), ())]

    def with_digest(self, tenant: str, weights_sha256: str, digest: str) -> Adapter | None:
        """A version of this tenant that has these files; as `with_weights`."""
        with self._lock:
            if digest not in self._weights.get((tenant, weights_sha256), ()):
                return None
            names = self._tenants[tenant]
            return next(
                version
                for owner, name in self._names[digest]
                if owner == tenant
                for version in names[name].all
                if version.digest == digest
            )

    def note(self, tenant: str, name: str, versions: Versions | None) -> list[str]:
        """The name now stands for that, or for nothing; the digests that nothing holds any more."""
        with self._lock:
            before = self._remove(tenant, name)
            if versions is not None:
                self._add(versions)
            return [digest for digest in before if not self._is_held(digest)]

    def set_image_bytes(self, digest: str, image_bytes: int) -> bool:
        """Whether any version of the digest said otherwise."""
        is_changed = False

        def corrected(version: Adapter) -> Adapter:
            nonlocal is_changed
            if version.digest != digest or version.image_bytes == image_bytes:
                return version
            is_changed = True
            return replace(version, image_bytes=image_bytes)

        with self._lock:
            for tenant, name in self._names.get(digest, ()):
                found = self._tenants[tenant][name]
                self._tenants[tenant][name] = Versions(
                    corrected(found.current), tuple(corrected(one) for one in found.all)
                )
        return is_changed

    def lease(self, tenant: str, name: str, on_release: Callable[[str], None]) -> Lease:
        """Look up and hold in one step. `on_release(digest)` runs when the lease ends."""
        with self._lock:
            adapter = self._get(tenant, name).current
            self._leases[adapter.digest] += 1
        return Lease(adapter, on_release)

    def end_lease(self, digest: str) -> bool:
        """Whether nothing holds the digest any more."""
        with self._lock:
            self._leases[digest] -= 1
            if not self._leases[digest]:
                del self._leases[digest]
            return not self._is_held(digest)

    def _is_held(self, digest: str) -> bool:
        return digest in self._names or digest in self._leases

    def _get(self, tenant: str, name: str) -> Versions:
        found = self._tenants.get(tenant, {}).get(name)
        if found is None or found.current.has_expired(self._clock()):
            raise AdapterNotFound(name)
        return found

    def _add(self, versions: Versions) -> None:
        tenant, name = versions.tenant, versions.name
        self._tenants.setdefault(tenant, {})[name] = versions
        insort(self._order.setdefault(tenant, []), name)
        for version in versions.all:
            self._names.setdefault(version.digest, set()).add((tenant, name))
            if version.weights_sha256 is not None:
                of_weights = self._weights.setdefault((tenant, version.weights_sha256), Counter())
                of_weights[version.digest] += 1

    def _remove(self, tenant: str, name: str) -> set[str]:
        """What the name stood for is forgotten; its digests."""
        found = self._tenants.get(tenant, {}).pop(name, None)
        if found is None:
            return set()
        order = self._order[tenant]
        del order[bisect_left(order, name)]
        if not order:
            del self._order[tenant], self._tenants[tenant]
        for version in found.all:
            self._forget_weights(version)
        digests = {version.digest for version in found.all}
        for digest in digests:
            self._names[digest].discard((tenant, name))
            if not self._names[digest]:
                del self._names[digest]
        return digests

    def _forget_weights(self, version: Adapter) -> None:
        if version.weights_sha256 is None:
            return
        place = (version.tenant, version.weights_sha256)
        of_weights = self._weights[place]
        of_weights[version.digest] -= 1
        if not of_weights[version.digest]:
            del of_weights[version.digest]
        if not of_weights:
            del self._weights[place]
