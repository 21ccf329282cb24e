"""What can go wrong with the database, each with a sentence that names the fix.

No message holds a path, an address or a password.
"""


class DatabaseFailure(Exception):
    """Base of all errors below. `code` is stable and meant for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param: str | None = None


class DatabaseFull(DatabaseFailure):
    """No room to commit. Nothing was changed."""

    def __init__(self) -> None:
        super().__init__(
            "The database has no room on its disk. Delete adapters or give it more space, then "
            "try again.",
            "store_full",
        )


class DatabaseUnavailable(DatabaseFailure):
    """It does not answer now: another process keeps it locked, or the connection is lost.

    What was asked for may be repeated. A write that lost its connection while it committed may
    have been done.
    """

    def __init__(self) -> None:
        super().__init__(
            "The database does not answer at the moment; try again shortly.",
            "database_unavailable",
        )


class DatabaseUnusable(DatabaseFailure):
    """It can't be opened as it is: damaged, of another version, or not to be reached."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "store_unusable")


def damaged() -> DatabaseUnusable:
    """What is told when the database's contents can't be trusted."""
    return DatabaseUnusable(
        "The database of adapters and tenants is damaged. Restore it from a backup, or remove it "
        "and begin anew."
    )
