"""The one edge at which a refused command becomes a sentence and exit code 2."""

from typing import Any

import typer
from typer.core import TyperGroup

from motet.cli.terminal import remarks, say
from motet.errors import MotetError

REFUSED = 2


class SentenceGroup(TyperGroup):
    """A command group whose commands fail with a sentence.

    Only what is the caller's to fix is caught: a refusal, or a file or address the machine
    would not give. Anything else is a fault of Motet and keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MotetError as error:
            say(remarks(), f"Error: {error.message}")
        except OSError as error:
            say(remarks(), f"Error: {_sentence(error)}")
        raise typer.Exit(REFUSED)


def _sentence(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{what}: {error.filename}" if error.filename else what
