"""What must hold of a name before it is changed: HTTP's If-Match and If-None-Match."""

from dataclasses import dataclass

from motet_adapters.errors import ConditionFailed
from motet_adapters.names import quoted

ANY = "*"


@dataclass(frozen=True)
class Condition:
    """Digests that the served version must be, or must not be, one of.

    None: not asked. `ANY` in a set: any version at all (RFC 9110, 13.1.1 and 13.1.2).
    """

    match: frozenset[str] | None = None
    none_match: frozenset[str] | None = None

    def require(self, name: str, digest: str | None) -> None:
        """Raises ConditionFailed. digest: what the name serves now; None: nothing."""
        if self.match is not None and not _is_among(self.match, digest):
            raise ConditionFailed(
                f"What {quoted(name)} serves is not what If-Match names; look at it again before "
                "you change it.",
                "condition_failed",
            )
        if self.none_match is not None and _is_among(self.none_match, digest):
            raise ConditionFailed(
                f"You have an adapter named {quoted(name)} already; leave If-None-Match out to "
                "replace it.",
                "adapter_exists",
            )


UNCONDITIONAL = Condition()


def _is_among(digests: frozenset[str], digest: str | None) -> bool:
    return digest is not None and (ANY in digests or digest in digests)
