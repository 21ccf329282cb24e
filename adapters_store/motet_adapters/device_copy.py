"""One image from host memory into the arena's tensor, on the calling loader thread."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DeviceCopy:
    """A copy into `target` that waits for the work that may still be reading the region.

    Construct it on the engine thread; `run` it on a loader thread.
    """

    target: Tensor  # uint8 [num_bytes], the region
    idle: torch.cuda.Event | None  # the engine's stream has passed the region's last reader

    @classmethod
    def into(cls, target: Tensor) -> "DeviceCopy":
        if target.device.type != "cuda":
            return cls(target, None)
        # Kernels of the evicted adapter may be queued on the engine's stream: overwriting its
        # region before they have run would hand them another tenant's weights.
        return cls(target, torch.cuda.current_stream(target.device).record_event())

    def run(self, source: Tensor) -> Tensor:
        """Copy `source` (uint8, host) and return the part of the target that now equals it.

        Raises ValueError when the target is too small. Returns when every byte is in place.
        """
        if source.numel() > self.target.numel():
            raise ValueError("the image is larger than the region set aside for it")
        target = self.target[: source.numel()]
        if self.idle is None:
            target.copy_(source)
            return target
        with torch.cuda.device(target.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_event(self.idle)
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)
            # Blocks this loader thread only; `source` must outlive the copy.
            stream.synchronize()
        return target
