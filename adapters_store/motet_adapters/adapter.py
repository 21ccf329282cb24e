"""A published adapter, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of a name of a tenant. Two adapters serve the same exactly when `digest` is."""

    tenant: str
    name: str
    digest: str  # SHA-256 (64 hex digits) over the uploaded config and weights
    kind: str  # of its family: "lora", "dora", ...; DoRA with rsLoRA's scale is "dora"
    ranks: tuple[int, ...]  # distinct ranks that run, sorted; empty: no product of two factors
    matched: Mapping[str, int]  # projection name -> number of modules, {"q_proj": 30, ...}
    num_parameters: int
    source_bytes: int  # the two uploaded files
    image_bytes: int  # on the device, for the base and dtype it was last lowered for
    created: int  # unix seconds at which this version was published
    number: int = 1  # of the version: 1, 2, ... within the name, never used again
    expires_at: int | None = None  # unix seconds from which on it is not served
    tags: tuple[str, ...] = ()  # distinct, sorted
    warnings: tuple[str, ...] = ()  # sentences for the uploader
    # Of the weights file alone. None: a row of Motet 0.1 that no scrub has read yet.
    weights_sha256: str | None = None  # 64 hex digits
    weights_bytes: int | None = None
    # Scheduling needs both before the image is loaded.
    num_virtual_tokens: int = 0  # positions it puts before every prompt
    invocation_tokens: tuple[int, ...] = ()  # aLoRA: active from this sequence on
    # Path of a module -> ||D - B A|| / ||D|| of its update D, where it was cut to a rank.
    lossy_errors: Mapping[str, float] = field(default_factory=dict)

    def has_expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now
