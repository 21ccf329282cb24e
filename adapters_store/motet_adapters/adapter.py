"""A published adapter, as data."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """What a name of a tenant points at. Two adapters are the same exactly when `digest` is."""

    tenant: str
    name: str
    digest: str  # SHA-256 (64 hex digits) over the uploaded config and weights
    kind: str  # "lora" | "rslora" | "dora"; DoRA with rsLoRA's scale is "dora"
    ranks: tuple[int, ...]  # distinct ranks, sorted
    matched: Mapping[str, int]  # projection name -> number of modules, {"q_proj": 30, ...}
    num_parameters: int
    source_bytes: int  # the two uploaded files
    image_bytes: int  # on the device, for the base and dtype it was last lowered for
    created: int  # unix seconds at which this name was last pointed at this digest
