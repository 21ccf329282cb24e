"""What is known of one adapter, as a table for people."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def adapter_facts(adapter: Mapping[str, Any]) -> Table:
    """One row per fact, and what of the model was matched.

    adapter: the fields of motet_adapters.Adapter by name, as the server answers an upload.
    """
    table = Table.grid(padding=(0, 2))
    table.add_row("name", str(adapter["name"]))
    table.add_row("kind", str(adapter["kind"]))
    table.add_row("ranks", ", ".join(str(rank) for rank in adapter["ranks"]))
    matched = adapter["matched"].items()
    table.add_row("matched", ", ".join(f"{module} x {count}" for module, count in matched))
    table.add_row("parameters", f"{adapter['num_parameters']:,}")
    table.add_row(
        "bytes", f"{adapter['source_bytes']:,} stored, {adapter['image_bytes']:,} when loaded"
    )
    table.add_row("digest", str(adapter["digest"]))
    return table
