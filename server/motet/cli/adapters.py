"""`motet adapters`: the tenant's own adapters on a running server, and a check without one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from motet.cli.adapter_files import AdapterFiles
from motet.cli.adapter_table import adapter_facts
from motet.cli.model_work import load
from motet.cli.remote import DEFAULT_URL, Key, Remote, Url
from motet.cli.settings_flags import with_settings
from motet.cli.terminal import remarks, results, say
from motet.cli.uploading import Upload
from motet.settings import Settings

adapters = typer.Typer(help="Upload, list, remove and check adapters.", no_args_is_help=True)

AdminKey = Annotated[
    str | None,
    typer.Option(envvar="MOTET_ADMIN_KEY", help="The admin key.", show_default=False),
]
LossyRank = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Cut the updates of an adapter that does not fold exactly to this rank, and show "
        "what is lost. Unset: it is refused.",
        show_default=False,
    ),
]
Directory = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="Directory with adapter_config.json and adapter_model.safetensors, as PEFT saves it.",
    ),
]


@adapters.command()
def push(
    directory: Directory,
    name: Annotated[
        str | None,
        typer.Option(help="Name on the server. Unset: the directory's.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Let the server check it and publish nothing.")
    ] = False,
    lossy_rank: LossyRank = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Upload an adapter and show what of the model it matched. Run again, it goes on where a
    broken connection ended it; what is stored already is not sent."""
    files = AdapterFiles.find(directory)
    target = name or directory.resolve().name
    with Remote(url, key) as server:
        adapter = _upload(server, target, files, dry_run, lossy_rank)
    results().print(adapter_facts(adapter), markup=False)
    done = "would be accepted; nothing was published" if dry_run else "is published"
    say(remarks(), f"Adapter {target} {done}.")


@adapters.command("import")
def import_(
    location: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION",
            help="Directory of the two files as the server reaches it, such as "
            "s3://bucket/trained/mine, below one of its import_prefixes.",
        ),
    ],
    tenant: Annotated[str, typer.Option(help="Whose adapter it becomes.")],
    name: Annotated[
        str | None,
        typer.Option(help="Its name. Unset: the last part of LOCATION.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    key: AdminKey = None,
) -> None:
    """Have the server fetch an adapter for a tenant. For the operator, with the admin key."""
    target = name or location.rstrip("/").rpartition("/")[2]
    path = f"/admin/tenants/{quote(tenant, safe='')}/adapters/{quote(target, safe='')}/import"
    with Remote(url, key) as server:
        adapter = server.call("POST", path, json={"url": location})
    results().print(adapter_facts(adapter), markup=False)
    say(remarks(), f"Adapter {target} of {tenant} is published.")


@adapters.command("list")
def list_(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """List the tenant's adapters."""
    with Remote(url, key) as server:
        found = server.call("GET", "/v1/adapters")["data"]
    if not found:
        say(remarks(), "No adapters yet. Upload one with: motet adapters push DIR")
        return
    table = Table("name", "kind", "ranks", "parameters", "bytes", "digest", box=None)
    for adapter in found:
        table.add_row(*_row(adapter))
    results().print(table, markup=False)


@adapters.command()
def versions(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """List the kept versions of an adapter, newest first; * marks the one served."""
    with Remote(url, key) as server:
        found = server.call("GET", f"{_path(name)}/versions")["data"]
    table = Table("", "version", "kind", "ranks", "parameters", "bytes", "digest", box=None)
    for version in found:
        mark = "*" if version["current"] else ""
        table.add_row(mark, str(version["version"]), *_row(version)[1:])
    results().print(table, markup=False)


@adapters.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    version: Annotated[
        int | None,
        typer.Option(help="Version to serve. Unset: the one before.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Serve another kept version. Requests that run now finish on the one they began with."""
    params = {} if version is None else {"version": version}
    with Remote(url, key) as server:
        served = server.call("POST", f"{_path(name)}/rollback", params=params)
    say(results(), f"Adapter {name} serves version {served['version']} again.")


@adapters.command()
def rm(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Remove an adapter. Requests that run on it now are still answered."""
    with Remote(url, key) as server:
        server.call("DELETE", _path(name))
    say(results(), f"Removed adapter {name}.")


@adapters.command()
@with_settings(
    "base", "data_dir", "double_quant", "dtype", "max_adapter_rank", "max_upload_bytes",
    "adapter_device_bytes",
)  # fmt: skip
def check(directory: Directory, settings: Settings, lossy_rank: LossyRank = None) -> None:
    """Check an adapter against a base model without any server: the same checks as an upload."""
    load("checking")(AdapterFiles.find(directory), directory.resolve().name, lossy_rank, settings)


def _upload(
    server: Remote, name: str, files: AdapterFiles, dry_run: bool, lossy_rank: int | None
) -> dict[str, Any]:
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = remarks()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("uploading", total=files.num_bytes())
        upload = Upload(
            server, _path(name), files, lambda done: progress.update(task, completed=done)
        )
        upload.send()
        return upload.commit(dry_run=dry_run, lossy_rank=lossy_rank)


def _path(name: str) -> str:
    return f"/v1/adapters/{quote(name, safe='')}"


def _row(adapter: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(adapter["name"]),
        str(adapter["kind"]),
        ", ".join(str(rank) for rank in adapter["ranks"]),
        f"{adapter['num_parameters']:,}",
        f"{adapter['source_bytes']:,}",
        str(adapter["digest"])[:12],
    )
