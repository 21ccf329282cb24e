"""The rule for tags: words the owner of an adapter hangs on a version."""

import re
from collections.abc import Iterable

from motet_adapters.errors import InvalidTag
from motet_adapters.names import quoted

MAX_TAGS = 16
# Wider than the rule of names, for "release=2.1" or "team:search"; still nothing to escape.
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=+@-]{0,63}")


def require_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Distinct and sorted. Raises InvalidTag."""
    found = sorted(set(tags))
    if len(found) > MAX_TAGS:
        raise InvalidTag(f"An adapter takes {MAX_TAGS} tags, not {len(found)}; leave some out.")
    for tag in found:
        if not _TAG.fullmatch(tag):
            raise InvalidTag(
                f"{quoted(tag)} is not a valid tag: use 1 to 64 of the characters a-z, A-Z, 0-9 "
                "and . _ : = + @ -, beginning with a letter or digit."
            )
    return tuple(found)
