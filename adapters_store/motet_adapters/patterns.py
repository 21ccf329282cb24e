"""rank_pattern and alpha_pattern without regular expressions.

PEFT takes the first key for which re.match(rf"(.*\\.)?({key})$", module) holds, interpolating what
the uploader wrote; a key like "(([a-z_0-9.])+)+!" then occupies a core for hours. Here keys are
plain names, for which that expression means exactly what `matching_key` computes.
"""

import re
from collections.abc import Iterable

from motet_adapters.errors import AdapterRefused
from motet_adapters.names import quoted

_PLAIN = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_MAX_NAME = 512


def is_plain_name(name: str) -> bool:
    """Whether `name` is dotted identifiers only, so that it can't be an expression."""
    return len(name) <= _MAX_NAME and _PLAIN.fullmatch(name) is not None


def require_pattern_key(key: str, param: str) -> None:
    """A plain name, or one behind '^', which means the whole path. Raises AdapterRefused."""
    if not is_plain_name(key.removeprefix("^")):
        raise AdapterRefused(
            f"{param} has the key {quoted(key)}; expressions from uploads are never run. Use "
            "plain names, such as q_proj or layers.0.self_attn.q_proj, one for each module the "
            "expression stands for.",
            param,
        )


def matching_key(keys: Iterable[str], module: str) -> str | None:
    """The first key that PEFT would match `module` against, or None."""
    return next((key for key in keys if _matches(key, module)), None)


def _matches(key: str, module: str) -> bool:
    if key.startswith("^"):
        return _same(key[1:], module)
    start = len(module) - len(key)
    if start and not (start > 0 and module[start - 1] == "."):
        return False
    return _same(key, module[start:])


def _same(key: str, text: str) -> bool:
    if key == text:
        return True
    # PEFT does not escape the key's dots, so there each stands for any character.
    return len(key) == len(text) and all(
        expected in (".", actual) for expected, actual in zip(key, text, strict=True)
    )
