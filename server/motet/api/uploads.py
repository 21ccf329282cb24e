"""Uploads on their way in: how many at once, and the ones that come file by file."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, ParamSpec, TypeVar

from motet_adapters import AdapterStore, Staging
from motet_adapters.file_kinds import CONFIG_FILE, WEIGHTS_FILE
from starlette.requests import ClientDisconnect

from motet.api.background import background_threads
from motet.api.errors import AlreadyThere, BodyStalled, TooManyUploads, UploadNotFound

_P = ParamSpec("_P")
_T = TypeVar("_T")

FILES = (CONFIG_FILE, WEIGHTS_FILE)
_WRITE_BYTES = 1024 * 1024
_REST_S = 0.008
_HELD_S = 15 * 60.0
_HELD_PER_TENANT = 4


@dataclass
class Held:
    """An upload that comes file by file, between its requests."""

    staging: Staging
    files: set[str] = field(default_factory=set)  # complete
    touched: float = field(default_factory=time.monotonic)
    busy: bool = False
    sealed: bool = False  # it was checked, and nothing can be added any more


class Received(NamedTuple):
    """What has come of one file."""

    filename: str
    num_bytes: int
    sha256: str  # 64 hex digits, of those bytes
    is_whole: bool


class UploadDesk:
    """Belongs to the event loop. Bounds what unfinished uploads can hold of the disk."""

    def __init__(
        self, store: AdapterStore, max_uploads: int, is_generating: Callable[[], bool]
    ) -> None:
        self._store = store
        self._is_generating = is_generating
        self._writers = background_threads(2, "motet-receive", niceness=5)
        self._max_uploads = max_uploads
        self._receiving: Counter[str] = Counter()  # by tenant
        self._held: dict[tuple[str, str], Held] = {}

    @contextmanager
    def receiving(self, tenant: str) -> Iterator[None]:
        """Counts one body being received. Raises TooManyUploads.

        A quarter of the places is for others: a tenant that sends slowly does not keep them out.
        """
        most = max(self._max_uploads - max(self._max_uploads // 4, 1), 1)
        if self._receiving[tenant] >= most:
            raise TooManyUploads(
                f"{most} uploads of yours are being received already; try again shortly."
            )
        if self._receiving.total() >= self._max_uploads:
            raise TooManyUploads(
                f"{self._max_uploads} uploads are being received already; try again shortly."
            )
        self._receiving[tenant] += 1
        try:
            yield
        finally:
            self._receiving[tenant] -= 1
            if not self._receiving[tenant]:
                del self._receiving[tenant]

    @contextmanager
    def adding(
        self, tenant: str, name: str, filename: str, offset: int | None
    ) -> Iterator[Staging]:
        """Where to write one more file of an upload, which begins with its first file.

        offset: where the bytes to come continue an earlier, broken connection; None: the file from
        its start, in place of any part of it that came before. When the connection breaks, the
        part that came stays, to be continued; after any other error the upload is dropped.
        Raises AlreadyThere, TooManyUploads.
        """
        self._sweep()
        held = self._held.get((tenant, name))
        received = 0 if held is None else held.staging.received(filename)
        if held is not None:
            self._require_addable(held, filename)
        if offset is not None and offset != received:
            raise AlreadyThere(
                f"{received} bytes of {filename} are here, not {offset}; continue from there.",
                "wrong_offset",
                "upload-offset",
            )
        held = held or self._begin(tenant, name)
        held.busy = True
        try:
            if offset is None:
                held.staging.restart(filename)
            yield held.staging
        except (ClientDisconnect, BodyStalled):
            held.busy, held.touched = False, time.monotonic()
            raise
        except BaseException:
            self._drop(tenant, name)
            raise
        held.files.add(filename)
        held.busy, held.touched = False, time.monotonic()

    def received(self, tenant: str, name: str) -> list[Received]:
        """The files that have begun to come.

        Raises UploadNotFound, and AlreadyThere while a request is adding to them.
        """
        self._sweep()
        held = self._find(tenant, name)
        return [
            Received(filename, num_bytes, held.staging.sha256(filename), filename in held.files)
            for filename in FILES
            if (num_bytes := held.staging.received(filename)) or filename in held.files
        ]

    @contextmanager
    def committing(self, tenant: str, name: str, *, keep: bool) -> Iterator[Staging]:
        """The upload to be published; afterwards it is gone, unless `keep` and all went well.

        Raises UploadNotFound, and AlreadyThere also while a file is not whole.
        """
        for file in self.received(tenant, name):
            if not file.is_whole:
                raise AlreadyThere(
                    f"Only {file.num_bytes} bytes of {file.filename} have come. PUT the rest with "
                    f"Upload-Offset: {file.num_bytes}, then commit.",
                    "upload_incomplete",
                )
        held = self._find(tenant, name)
        held.busy = True
        try:
            yield held.staging
        except BaseException:
            self._drop(tenant, name)
            raise
        held.busy, held.touched, held.sealed = False, time.monotonic(), True
        if not keep:
            self._drop(tenant, name)

    async def write_all(self, staging: Staging, pieces: AsyncIterator[tuple[str, bytes]]) -> None:
        """Writes what comes, a mebibyte at a time and off the event loop, and never holds more.

        While anybody's tokens are made it rests after each: to take bytes in is work, too, which
        would hold the tokens up if it came all at once. When the connection breaks, what came is
        written before that is raised.
        """
        waiting: list[tuple[str, bytes]] = []
        num_bytes = 0
        try:
            async for piece in pieces:
                waiting.append(piece)
                num_bytes += len(piece[1])
                if num_bytes >= _WRITE_BYTES:
                    full, waiting, num_bytes = waiting, [], 0
                    await finished_in(self._writers, _write, staging, full)
                    if self._is_generating():
                        await asyncio.sleep(_REST_S)
        except (ClientDisconnect, BodyStalled):
            await finished_in(self._writers, _write, staging, waiting)
            raise
        await finished_in(self._writers, _write, staging, waiting)

    def discard(self, tenant: str, name: str) -> None:
        """Drops an upload that was not committed. Raises UploadNotFound, AlreadyThere."""
        self._find(tenant, name)
        self._drop(tenant, name)

    def close(self) -> None:
        """Drops every upload that was not committed."""
        self._writers.shutdown()
        for tenant, name in list(self._held):
            self._drop(tenant, name)

    def _require_addable(self, held: Held, filename: str) -> None:
        if held.busy:
            raise AlreadyThere("Another request is working on this upload; wait for it.", "busy")
        if held.sealed or filename in held.files:
            raise AlreadyThere(
                f"{filename!a} was sent already, or the upload was checked. Commit the upload, or "
                "DELETE its files and begin again.",
                "file_exists",
            )

    def _begin(self, tenant: str, name: str) -> Held:
        if sum(owner == tenant for owner, _ in self._held) >= _HELD_PER_TENANT:
            raise TooManyUploads(
                f"{_HELD_PER_TENANT} uploads were begun and not committed; commit or DELETE one."
            )
        held = self._held[tenant, name] = Held(self._store.stage())
        return held

    def _find(self, tenant: str, name: str) -> Held:
        held = self._held.get((tenant, name))
        if held is None:
            raise UploadNotFound(
                "No files were sent for this name, or they were dropped after a failure or "
                f"{_HELD_S / 60:.0f} idle minutes. PUT them to .../files/NAME first.",
                "upload_not_found",
            )
        if held.busy:
            raise AlreadyThere("Another request is working on this upload; wait for it.", "busy")
        return held

    def _drop(self, tenant: str, name: str) -> None:
        self._held.pop((tenant, name)).staging.close()

    def _sweep(self) -> None:
        oldest = time.monotonic() - _HELD_S
        for (tenant, name), held in list(self._held.items()):
            if held.touched < oldest and not held.busy:
                self._drop(tenant, name)


async def finished_in(
    executor: Executor | None, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
) -> _T:
    """The result of `work` in a thread. If cancelled it ends only after the work has, so that
    what the work uses can be closed safely."""
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(executor, lambda: work(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _write(staging: Staging, pieces: list[tuple[str, bytes]]) -> None:
    for filename, data in pieces:
        staging.write(filename, data)
