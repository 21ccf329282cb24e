"""Weights files a tenant has stored already, so that it need not send them again."""

from collections.abc import Callable
from contextlib import suppress

from motet_adapters.checkup import Checkup
from motet_adapters.errors import AdapterLoadFailed
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.index import Index
from motet_adapters.source import Source
from motet_adapters.staging import Staging

_CHUNK_BYTES = 1 << 20


class StoredWeights:
    """Looks at one tenant's versions only: neither an answer nor its time tells of others'."""

    def __init__(self, index: Index, source: Callable[[str], Source], checkup: Checkup) -> None:
        self._index = index
        self._source = source
        self._checkup = checkup

    def has(self, tenant: str, weights_sha256: str) -> bool:
        """Memory only."""
        return bool(self._digests(tenant, weights_sha256))

    def reuse(self, tenant: str, weights_sha256: str, staging: Staging) -> bool:
        """Write the file into an upload; whether the tenant has it.

        Bytes that have rotted are not taken. Raises as `Staging.write` does.
        """
        for digest in self._digests(tenant, weights_sha256):
            with suppress(FileNotFoundError):
                with self._source(digest).weights_path.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        staging.write(WEIGHTS_FILE, chunk)
                if staging.weights_sha256 == weights_sha256:
                    return True
                staging.restart(WEIGHTS_FILE)
            with suppress(AdapterLoadFailed):
                self._checkup.verify(digest)
        return False

    def _digests(self, tenant: str, weights_sha256: str) -> list[str]:
        """Of versions with that file that are not in quarantine."""
        found = self._index.with_weights(tenant, weights_sha256)
        return [digest for digest in found if not self._checkup.quarantine.holds(digest)]
