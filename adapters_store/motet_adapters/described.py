"""An upload that passed every check, as the adapter it would be."""

from motet_adapters.adapter import Adapter
from motet_adapters.matching import counts
from motet_adapters.source import Lowered
from motet_adapters.staging import Staging


def described(tenant: str, name: str, staging: Staging, lowered: Lowered, now: float) -> Adapter:
    """Without what the uploader adds to it (end, tags) and the number it gets when published."""
    return Adapter(
        tenant=tenant,
        name=name,
        digest=lowered.image.digest,
        kind=lowered.plan.kind,
        ranks=tuple(sorted({site.rank for site in lowered.plan.sites if site.rank})),
        matched=counts(lowered.plan),
        num_parameters=lowered.num_parameters,
        source_bytes=staging.num_bytes,
        image_bytes=lowered.image.num_bytes,
        created=int(now),
        warnings=lowered.warnings,
        weights_sha256=staging.weights_sha256,
        weights_bytes=staging.weights_bytes,
        num_virtual_tokens=lowered.plan.num_virtual_tokens,
        invocation_tokens=lowered.plan.invocation_tokens,
        lossy_errors=lowered.lossy_errors,
    )
