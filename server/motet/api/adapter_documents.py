"""One version of an adapter as JSON."""

from typing import Any

from motet_adapters import Adapter


def adapter_document(adapter: Adapter) -> dict[str, Any]:
    """What a client gets to know of its own adapter."""
    return {
        "id": adapter.name,
        "object": "adapter",
        "name": adapter.name,
        "version": adapter.number,
        "digest": adapter.digest,
        "kind": adapter.kind,
        "ranks": list(adapter.ranks),
        "matched": dict(adapter.matched),
        "num_parameters": adapter.num_parameters,
        "num_virtual_tokens": adapter.num_virtual_tokens,
        "invocation_tokens": list(adapter.invocation_tokens),
        "lossy_errors": dict(adapter.lossy_errors),
        "bytes": adapter.source_bytes,
        "source_bytes": adapter.source_bytes,
        "image_bytes": adapter.image_bytes,
        "weights_sha256": adapter.weights_sha256,
        "created": adapter.created,
        "expires_at": adapter.expires_at,
        "tags": list(adapter.tags),
        "warnings": list(adapter.warnings),
    }
