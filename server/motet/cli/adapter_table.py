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
    table.add_row("ranks", ", ".join(str(rank) for rank in adapter["ranks"]) or "none")
    matched = adapter["matched"].items()
    table.add_row("matched", ", ".join(f"{module} x {count}" for module, count in matched))
    table.add_row("parameters", f"{adapter['num_parameters']:,}")
    if adapter.get("num_virtual_tokens"):
        table.add_row("virtual tokens", str(adapter["num_virtual_tokens"]))
    if adapter.get("invocation_tokens"):
        tokens = ", ".join(str(token) for token in adapter["invocation_tokens"])
        table.add_row("active from", tokens)
    errors = adapter.get("lossy_errors")
    if errors:
        worst = max(errors, key=errors.__getitem__)
        table.add_row("lost", f"{errors[worst]:.1%} of the update at most, of {worst}")
    table.add_row(
        "bytes", f"{adapter['source_bytes']:,} stored, {adapter['image_bytes']:,} when loaded"
    )
    table.add_row("digest", str(adapter["digest"]))
    for warning in adapter.get("warnings", ()):
        table.add_row("warning", str(warning))
    return table
