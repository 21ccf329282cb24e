"""What a tenant has published before, so that the same upload need not be lowered again."""

from dataclasses import dataclass, replace

from motet_adapters.adapter import Adapter
from motet_adapters.disk import Disk
from motet_adapters.index import Clock, Index
from motet_adapters.lowering import Lowering
from motet_adapters.staging import Staging


@dataclass(frozen=True)
class KnownUploads:
    """Of each tenant its own alone: others' versions are not looked at, as time would tell."""

    index: Index
    disk: Disk
    lowering: Lowering
    clock: Clock

    def find(self, tenant: str, name: str, staging: Staging, digest: str) -> Adapter | None:
        """The upload as the adapter it would be by that name, if the tenant has published the
        digest under any, it was lowered for this base, and it would be accepted today."""
        found = self.index.with_digest(tenant, staging.weights_sha256, digest)
        if found is None or not self.disk.has_image_of_its_own(digest):
            return None
        if not self.lowering.allows(found):
            return None
        return replace(found, name=name, created=int(self.clock()), number=1)
