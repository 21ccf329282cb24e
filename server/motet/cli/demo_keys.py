"""The demo tenants' keys, kept in a file so that a later start can print a working curl line.

For the demo alone: the server itself keeps no key, only digests.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from motet.tenancy.tenancy import Tenancy


class DemoKeys:
    """data_dir/demo-keys.json: {tenant: key}, readable by its owner alone."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "demo-keys.json"

    def ensure(self, tenancy: Tenancy, names: list[str]) -> dict[str, str]:
        """A working key for each demo tenant. Creates the tenants that are missing; one that was
        suspended is resumed, because that is what asking for the demo means."""
        known = self._read()
        keys = {name: self._working(tenancy, name, known.get(name)) for name in names}
        if keys != known:
            self._write(keys)
        return keys

    @staticmethod
    def _working(tenancy: Tenancy, name: str, key: str | None) -> str:
        existing = {tenant.name: tenant for tenant in tenancy.tenants.list()}.get(name)
        if existing is None:
            return tenancy.tenants.create(name)[1]
        if existing.state != "active":
            tenancy.tenants.resume(name)
        caller = None if key is None else tenancy.ring.authenticate(key)
        if key is not None and caller is not None and caller.tenant == existing.id:
            return key
        return tenancy.keys.create(existing.id)[1]

    def _read(self) -> dict[str, str]:
        """Empty for a file that is missing or is not ours: then the keys are made anew."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: key for name, key in found.items() if isinstance(key, str)}

    def _write(self, keys: Mapping[str, str]) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        # Never readable by others, not even between creation and a chmod.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(keys, file, indent=1)
        fresh.replace(self._path)
