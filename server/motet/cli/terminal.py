"""Where the commands write: results on stdout, everything about the work itself on stderr."""

from rich.console import Console

_PIPE_WIDTH = 160


def results() -> Console:
    """For what was asked for. Wider when piped: nothing reads a log in 80 columns."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def remarks() -> Console:
    """For progress, hints and failures: never mixed into a result that is piped elsewhere."""
    return Console(stderr=True, highlight=False)


def say(console: Console, text: str) -> None:
    """One line exactly as it is: no markup read into it, no line breaks put into it."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
