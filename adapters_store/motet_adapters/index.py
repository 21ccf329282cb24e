"""The registry's rows in memory, with the leases: what requests read, never waiting on a disk."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from motet_adapters.adapter import Adapter
from motet_adapters.errors import AdapterNotFound


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
    """Names of each tenant, and which names and leases hold each digest. Thread-safe."""

    def __init__(self, adapters: list[Adapter]) -> None:
        self._tenants: dict[str, dict[str, Adapter]] = {}
        self._names: dict[str, set[tuple[str, str]]] = {}  # digest -> (tenant, name)
        self._leases: Counter[str] = Counter()  # digest -> leases; no zeros
        self._lock = threading.Lock()
        for adapter in adapters:
            self._add(adapter)

    def digests(self) -> set[str]:
        """Of all names."""
        with self._lock:
            return set(self._names)

    def is_held(self, digest: str) -> bool:
        with self._lock:
            return self._is_held(digest)

    def get(self, tenant: str, name: str) -> Adapter:
        """Raises AdapterNotFound: the same for another tenant's adapter as for none."""
        with self._lock:
            return self._get(tenant, name)

    def find(self, tenant: str, name: str) -> Adapter | None:
        with self._lock:
            return self._tenants.get(tenant, {}).get(name)

    def list(self, tenant: str) -> list[Adapter]:
        with self._lock:
            names = self._tenants.get(tenant, {})
            return [names[name] for name in sorted(names)]

    def put(self, adapter: Adapter) -> None:
        """Point the name at the adapter, whatever it pointed at before."""
        with self._lock:
            if adapter.name in self._tenants.get(adapter.tenant, {}):
                self._remove(adapter.tenant, adapter.name)
            self._add(adapter)

    def remove(self, tenant: str, name: str) -> None:
        """Raises AdapterNotFound."""
        with self._lock:
            self._remove(tenant, name)

    def set_image_bytes(self, digest: str, image_bytes: int) -> bool:
        """Whether any name of the digest said otherwise."""
        is_changed = False
        with self._lock:
            for tenant, name in self._names.get(digest, ()):
                adapter = self._tenants[tenant][name]
                is_changed |= adapter.image_bytes != image_bytes
                self._tenants[tenant][name] = replace(adapter, image_bytes=image_bytes)
        return is_changed

    def lease(self, tenant: str, name: str, on_release: Callable[[str], None]) -> Lease:
        """Look up and hold in one step. `on_release(digest)` runs when the lease ends."""
        with self._lock:
            adapter = self._get(tenant, name)
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

    def _get(self, tenant: str, name: str) -> Adapter:
        adapter = self._tenants.get(tenant, {}).get(name)
        if adapter is None:
            raise AdapterNotFound(name)
        return adapter

    def _add(self, adapter: Adapter) -> None:
        self._tenants.setdefault(adapter.tenant, {})[adapter.name] = adapter
        self._names.setdefault(adapter.digest, set()).add((adapter.tenant, adapter.name))

    def _remove(self, tenant: str, name: str) -> None:
        adapter = self._get(tenant, name)
        del self._tenants[tenant][name]
        if not self._tenants[tenant]:
            del self._tenants[tenant]
        self._names[adapter.digest].discard((tenant, name))
        if not self._names[adapter.digest]:
            del self._names[adapter.digest]
