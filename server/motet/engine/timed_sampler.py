"""A sampler that tells a clock how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from motet_kernels import LargestOps, SamplingOps
from torch import Tensor

from motet.engine.sampler import Sampled, Sampler, SampleRow
from motet.engine.stage_clock import StageClock


class TimedSampler(Sampler):
    def __init__(
        self,
        ends: Iterable[int],
        clock: StageClock,
        device: SamplingOps | None = None,
        host: LargestOps | None = None,
    ) -> None:
        super().__init__(ends, device, host)
        self._clock = clock

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        with self._clock.stage("sampling"):
            return super().sample(logits, rows)
