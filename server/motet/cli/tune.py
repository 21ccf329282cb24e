"""`motet tune`: the flags; the trials later."""

from typing import Annotated

import typer

from motet.cli.model_work import load


def tune(
    show: Annotated[
        bool, typer.Option("--show", help="Print the table in force instead of making one.")
    ] = False,
) -> None:
    """Find the fastest block sizes of the GPU kernels by trial, and keep them for this GPU.

    Takes minutes and wants the GPU for itself. A server uses the table from its next start. Other
    sizes may sum in another order: answers can differ from those before in the last bits.
    """
    load("tuning")(show=show)
