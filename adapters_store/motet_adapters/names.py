"""The one rule for names of tenants and adapters, and how foreign text is shown in a message."""

import re

from motet_adapters.errors import InvalidName

# Lower case only, so that no two names differ in a way a person overlooks. Never used as a path.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHOWN = 10


def require_name(name: str, param: str = "name") -> None:
    """Raises InvalidName unless `name` is a legal tenant or adapter name."""
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{quoted(name)} is not a valid {param}: use 1 to 64 of the characters a-z, 0-9, "
            "'.', '_' and '-', beginning with a letter or digit.",
            param,
        )


def quoted(text: object, limit: int = 120) -> str:
    """Foreign text for a message: short, ASCII, control characters escaped."""
    shown = ascii(text)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def listed(names: list[str]) -> str:
    """A list for a message: the first few names and how many were left out."""
    shown = ", ".join(quoted(name) for name in names[:_SHOWN])
    rest = len(names) - _SHOWN
    return shown if rest <= 0 else f"{shown} and {rest} more"
