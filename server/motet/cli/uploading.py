"""An adapter's files on their way to a server: continued where the connection broke."""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from motet.cli.adapter_files import AdapterFiles
from motet.cli.remote import ConnectionBroken, Remote, ServerRefused

_CHUNK_BYTES = 256 * 1024
_TRIES = 6
# A server may take its client_timeout_s to notice that the connection is gone.
_BUSY_S = 45.0
_CONFLICT = "409"


class Upload:
    """One adapter. `report` is told how many bytes of both files are on the server."""

    def __init__(
        self, server: Remote, path: str, files: AdapterFiles, report: Callable[[int], None]
    ) -> None:
        self._server = server
        self._path = path
        self._files = files
        self._report = report
        self._there: dict[str, Any] = {}  # what the server said of each file

    def send(self) -> None:
        """Brings both files there, as far as they are not. Raises ServerRefused."""
        self._there = self._received()
        if any(not _begins_with(path, self._there.get(path.name)) for path in self._files):
            # Of an upload by this name that was given up.
            self._server.call("DELETE", f"{self._path}/files")
            self._there = {}
        for _ in range(_TRIES):
            was_broken = self._send_both()
            # A server that was restarted has lost what came before.
            if not was_broken or len(self._received()) == len(self._files):
                return
        raise ConnectionBroken("The connection broke too often; run the command again later.")

    def commit(self, *, dry_run: bool, lossy_rank: int | None = None) -> dict[str, Any]:
        """Publishes them, or has them checked and dropped. Raises ServerRefused."""
        params = {"dry_run": "true"} if dry_run else {}
        if lossy_rank is not None:
            params |= {"lossy": "true", "rank": str(lossy_rank)}
        adapter: dict[str, Any] = self._server.call("POST", f"{self._path}/commit", params=params)
        if dry_run:
            self._server.call("DELETE", f"{self._path}/files")
        return adapter

    def _send_both(self) -> bool:
        """Whether the connection broke in between."""
        was_broken, sent = False, 0
        for file in self._files:
            was_broken |= self._bring(file, f"{self._path}/files/{file.name}", sent)
            sent += file.stat().st_size
            self._report(sent)
        return was_broken

    def _bring(self, file: Path, url: str, sent: int) -> bool:
        """One file, after `sent` bytes of others; whether the connection broke in between."""
        whole = {"Repr-Digest": _repr_digest(_sha256(file, file.stat().st_size))}
        failures = 0
        while True:
            try:
                if failures:
                    self._there = self._received()
                there = self._there.get(file.name)
                if there is None and self._is_stored(file, url, whole):
                    return failures > 0
                if there is None or not there["complete"]:
                    self._put(file, url, there["bytes"] if there else 0, sent, whole)
                return failures > 0
            except ConnectionBroken:
                failures += 1
                if failures == _TRIES:
                    raise
                time.sleep(min(0.1 * 2**failures, 5.0))

    def _put(self, file: Path, url: str, offset: int, sent: int, headers: dict[str, str]) -> None:
        length = file.stat().st_size - offset
        headers = {**headers, "Upload-Offset": str(offset), "Content-Length": str(length)}
        self._server.call("PUT", url, content=self._rest(file, offset, sent), headers=headers)

    def _rest(self, file: Path, offset: int, sent: int) -> Iterator[bytes]:
        with file.open("rb") as opened:
            opened.seek(offset)
            while chunk := opened.read(_CHUNK_BYTES):
                yield chunk
                offset += len(chunk)
                self._report(sent + offset)

    def _received(self) -> dict[str, Any]:
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                upload = self._server.find("GET", f"{self._path}/files") or {"files": []}
                return {file["filename"]: file for file in upload["files"]}
            except ServerRefused as error:
                # The broken request still counts as being received.
                if error.code != _CONFLICT or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def _is_stored(self, file: Path, url: str, headers: dict[str, str]) -> bool:
        """Whether the server took the file from what the tenant has stored there already."""
        if file != self._files.weights:
            return False
        return self._server.find("POST", url, headers=headers) is not None


def _begins_with(file: Path, there: dict[str, Any] | None) -> bool:
    """Whether what came by its name is the beginning of this file, or all of it."""
    if there is None:
        return True
    count, size = int(there["bytes"]), file.stat().st_size
    if count > size or (there["complete"] and count < size):
        return False
    return bool(there["sha256"] == _sha256(file, count).hex())


def _sha256(file: Path, num_bytes: int) -> bytes:
    """Of the file's first bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while num_bytes and (chunk := opened.read(min(_CHUNK_BYTES, num_bytes))):
            digest.update(chunk)
            num_bytes -= len(chunk)
    return digest.digest()


def _repr_digest(sha256: bytes) -> str:
    """RFC 9530."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"
