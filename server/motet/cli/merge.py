"""`motet merge`: a checkpoint with an adapter in its weights."""

from pathlib import Path
from typing import Annotated

import typer

from motet.cli.adapter_files import AdapterFiles
from motet.cli.model_work import load
from motet.cli.settings_flags import with_settings
from motet.settings import Settings


@with_settings("data_dir", "double_quant", "max_adapter_rank", "max_upload_bytes")
def merge(
    base: Annotated[
        str, typer.Argument(help='Directory, GGUF file or hub id; "demo" is the demo base.')
    ],
    adapter: Annotated[
        Path, typer.Argument(help="Directory with the adapter's two files, as for an upload.")
    ],
    out: Annotated[Path, typer.Argument(help="New directory for the checkpoint.")],
    settings: Settings,
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="Merge into the weights from before they were quantised. Unset: into the "
            "dequantised ones, which is what the server answers with.",
        ),
    ] = False,
) -> None:
    """Write a plain transformers checkpoint with an adapter merged into its weights."""
    load("merging")(base, AdapterFiles.find(adapter), out, original=original, settings=settings)
