"""Uploads, checked and lowered one at a time: each may need much memory."""

import threading
from dataclasses import dataclass, field

import torch

from motet_adapters.adapter import Adapter
from motet_adapters.base_weights import BaseWeights
from motet_adapters.bases import Bases
from motet_adapters.limits import Limits
from motet_adapters.lower import Pause, no_pause
from motet_adapters.source import Lowered, Source


@dataclass
class Lowering:
    """For one base and one dtype. Thread-safe. max_image_bytes: the device's budget. pause: as for
    `lower`."""

    base: BaseWeights
    dtype: torch.dtype
    limits: Limits
    max_image_bytes: int | None
    bases: Bases
    pause: Pause = no_pause
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, source: Source) -> Lowered:
        """Raises AdapterRefused, AdapterTooLarge."""
        with self._lock:
            return source.lower(
                self.base, self.dtype, self.limits, self.max_image_bytes, self.bases, self.pause
            )

    def allows(self, adapter: Adapter) -> bool:
        """Whether one that was lowered before is within the limits of now."""
        limits, most = self.limits, self.max_image_bytes
        return (
            max(adapter.ranks, default=0) <= limits.max_rank
            and adapter.source_bytes <= limits.max_upload_bytes
            and (most is None or adapter.image_bytes <= most)
        )
