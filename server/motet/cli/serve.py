"""`motet serve`: flags first, the model later."""

import time
from typing import Annotated

import typer

from motet.cli.model_work import load
from motet.cli.settings_flags import with_settings
from motet.settings import Settings


@with_settings()
def serve(
    settings: Settings,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="Create the three demo tenants with an adapter each, if missing."
        ),
    ] = False,
) -> None:
    """Serve a base model and its tenants' adapters."""
    started = time.monotonic()  # the imports behind the next line are a good part of a start
    load("serving")(settings, demo=demo, started=started)
