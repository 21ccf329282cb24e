"""The demo tenants' adapters, brought into the store as an upload would."""

from collections.abc import Iterable

from motet_adapters import AdapterStore
from motet_adapters.errors import AdapterNotFound

from motet.cli.adapter_files import AdapterFiles
from motet.cli.progress_bar import Report
from motet.demo.catalog import DemoTenant


def ensure_demo_adapters(
    store: AdapterStore, demo_tenants: Iterable[DemoTenant], report: Report
) -> None:
    """Puts each adapter that its tenant does not have yet. Raises AdapterError."""
    for one in demo_tenants:
        try:
            store.get(one.tenant, one.adapter)
        except AdapterNotFound:
            report(f"Storing the demo adapter {one.adapter}", 1.0)
            with store.stage() as staging:
                AdapterFiles.find(one.directory).write_into(staging.write)
                store.put(one.tenant, one.adapter, staging)
