"""What a key may be used for."""

from collections.abc import Iterable
from typing import Literal, get_args

from motet.errors import RequestRefused

Scope = Literal["infer", "upload", "admin"]
"""infer: text. upload: changes to the tenant's adapters. admin: the tenant's own keys and usage.

Every key of a tenant may read what the tenant has. No scope opens /admin.
"""

SCOPES: tuple[Scope, ...] = get_args(Scope)
USUAL_SCOPES: tuple[Scope, ...] = ("infer", "upload")


def checked_scopes(given: Iterable[str]) -> list[str]:
    """Distinct and sorted. Raises RequestRefused for none, or one that is not known."""
    scopes = sorted(set(given))
    for scope in scopes:
        if scope not in SCOPES:
            raise RequestRefused(
                f"{scope[:40]!a} is not a scope; a key may have {', '.join(SCOPES)}.",
                "unknown_scope",
                "scopes",
            )
    if not scopes:
        raise RequestRefused(
            f"A key without a scope opens nothing; give it one of {', '.join(SCOPES)}.",
            "no_scopes",
            "scopes",
        )
    return scopes
