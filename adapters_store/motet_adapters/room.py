"""What the store asks before it gives a tenant more room; who answers, it does not know."""

from typing import Protocol

from sqlalchemy import Connection


class RequireRoom(Protocol):
    """Raises its own error for what would put the tenant over its quota; nothing is published then.

    Called inside the transaction that publishes, before the new version is in it, so that nobody
    else can take the room meanwhile: ask the given connection, and begin no transaction.
    source_bytes: of both files; rank: the largest of the adapter.
    """

    def __call__(
        self,
        connection: Connection,
        tenant: str,
        /,
        *,
        source_bytes: int,
        rank: int,
        is_new_name: bool,
    ) -> None: ...


def all_the_room(
    connection: Connection, tenant: str, *, source_bytes: int, rank: int, is_new_name: bool
) -> None:
    """No quotas."""
