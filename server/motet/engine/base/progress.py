"""How long work on a base reports where it is."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called with what is being done now and how much of the whole is done, from 0 to 1."""


def silent(_doing: str, _done: float) -> None:
    """The progress nobody watches."""
