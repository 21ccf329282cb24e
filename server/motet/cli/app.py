"""The commands, put together."""

import typer

from motet.cli.adapters import adapters
from motet.cli.config import config
from motet.cli.generate import generate
from motet.cli.history import audit, usage
from motet.cli.keys import keys
from motet.cli.merge import merge
from motet.cli.profile import profile
from motet.cli.quantize import quantize
from motet.cli.sentences import SentenceGroup
from motet.cli.serve import serve
from motet.cli.tenants import tenants
from motet.cli.tune import tune

app = typer.Typer(
    name="motet",
    help="One 4-bit base model, many tenants' LoRA and DoRA adapters, one forward pass.",
    cls=SentenceGroup,
    no_args_is_help=True,
    rich_markup_mode=None,  # its tables cut long flags off on a narrow terminal
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(quantize)
app.add_typer(tenants, name="tenants")
app.add_typer(keys, name="keys")
app.command()(usage)
app.command()(audit)
app.add_typer(adapters, name="adapters")
app.command()(merge)
app.command()(generate)
app.command()(profile)
app.command()(tune)
app.command()(config)


def main() -> None:
    """The console script `motet`."""
    app()
