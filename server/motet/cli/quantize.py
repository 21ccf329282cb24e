"""`motet quantize`: prepare a base model ahead of time."""

from pathlib import Path
from typing import Annotated

import typer

from motet.cli.model_work import load
from motet.cli.settings_flags import with_settings
from motet.settings import Settings


@with_settings("double_quant")
def quantize(
    base: Annotated[
        str, typer.Argument(help='Directory, GGUF file or hub id; "demo" is the demo base.')
    ],
    out: Annotated[
        Path, typer.Argument(help="The data_dir of the server that is to serve the base.")
    ],
    settings: Settings,
) -> None:
    """Quantise a base model to NF4 ahead of time.

    The result is kept under OUT, so that `motet serve --data-dir OUT` starts fast.
    """
    load("quantizing")(base, out, settings)
