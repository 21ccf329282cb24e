"""`motet config`: what the server would run with, and where each value comes from."""

import os
from typing import Annotated

import typer
from rich.table import Table

from motet.cli.settings_flags import default_text, flag_name, typed_text, with_settings
from motet.cli.terminal import results, say
from motet.settings import Settings, env_name


@with_settings()
def config(
    ctx: typer.Context,
    settings: Settings,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference table of all settings instead.")
    ] = False,
) -> None:
    """Show every setting and where its value comes from."""
    if markdown:
        say(results(), markdown_table())
        return
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for field in Settings.model_fields:
        given = ctx.params.get(field) is not None
        table.add_row(field, _shown(settings, field), _origin(field, given))
    results().print(table, markup=False)


def markdown_table() -> str:
    """The settings as a Markdown table: the one in the README."""
    rows = ["| Flag of `motet serve` | Variable | Default | What it does |", "|---|---|---|---|"]
    for field, info in Settings.model_fields.items():
        default = f"`{default_text(field)}`" if default_text(field) else ""
        cells = f"`{flag_name(field)}`", f"`{env_name(field)}`", default, str(info.description)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _shown(settings: Settings, field: str) -> str:
    value = getattr(settings, field)
    return "-" if value is None else typed_text(value)


def _origin(field: str, given_as_flag: bool) -> str:
    if given_as_flag:
        return flag_name(field)
    names = {name.upper() for name, value in os.environ.items() if value}
    return env_name(field) if env_name(field) in names else "default"
