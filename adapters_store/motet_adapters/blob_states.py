"""What the database knows of stored bytes: whether they may be served, and when they were read."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from motet_database import Database, record
from motet_database.tables import blobs, versions
from sqlalchemy import Connection, RowMapping, select, update


@dataclass(frozen=True)
class Blob:
    """Config and weights of one digest, as they were when they came in."""

    digest: str
    num_bytes: int  # both files together
    is_quarantined: bool
    checked: int | None  # unix seconds at which a scrub last found it intact


class BlobStates:
    """The states of blobs: live, or quarantined from a failed check until the next good upload."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Blob]:
        """Those that any version names, the ones longest unchecked first."""
        query = (
            select(blobs)
            .where(blobs.c.state != "orphaned")
            .order_by(blobs.c.checked.is_not(None), blobs.c.checked, blobs.c.digest)
        )
        with self._database.read() as connection:
            return [_blob(row) for row in connection.execute(query).mappings()]

    def is_quarantined(self, digest: str) -> bool:
        query = select(blobs.c.state).where(blobs.c.digest == digest)
        with self._database.read() as connection:
            return connection.execute(query).scalar() == "quarantined"

    def remove_unnamed(self, digest: str, remove: Callable[[], None]) -> None:
        """Call `remove` unless a version names the digest; none can come to while it runs."""
        with self._database.write() as connection:
            named = select(versions.c.number).where(versions.c.digest == digest).limit(1)
            if connection.execute(named).first() is None:
                remove()

    def quarantine(self, digests: Iterable[str], reason: str) -> None:
        """No change, and nothing in the audit log, for those that were not live."""
        with self._database.write() as connection:
            for digest in digests:
                if _changed(connection, digest, "live", "quarantined"):
                    record(
                        connection,
                        actor="store",
                        action="blob.quarantined",
                        subject=digest,
                        detail={"reason": reason},
                    )

    def restore(self, digest: str, actor: str) -> None:
        """No change, and nothing in the audit log, unless it was quarantined."""
        with self._database.write() as connection:
            if _changed(connection, digest, "quarantined", "live"):
                record(connection, actor=actor, action="blob.restored", subject=digest)

    def note_checked(self, digest: str, weights_sha256: str, weights_bytes: int) -> None:
        """A scrub found it intact; adds what rows of the older format lack."""
        values = {
            "checked": int(time.time()),
            "weights_sha256": weights_sha256,
            "weights_bytes": weights_bytes,
        }
        with self._database.write() as connection:
            connection.execute(update(blobs).where(blobs.c.digest == digest).values(values))


def _changed(connection: Connection, digest: str, before: str, after: str) -> bool:
    found = (blobs.c.digest == digest) & (blobs.c.state == before)
    values = {"state": after, "state_since": int(time.time())}
    return bool(connection.execute(update(blobs).where(found).values(values)).rowcount)


def _blob(row: RowMapping) -> Blob:
    return Blob(
        digest=row["digest"],
        num_bytes=row["source_bytes"],
        is_quarantined=row["state"] == "quarantined",
        checked=row["checked"],
    )
