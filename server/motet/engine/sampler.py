"""From logits to one token per row.

A row's token and log-probabilities depend on its own logits, parameters, seed and position,
bit for bit, and on nothing else in the batch. The exact operations (the largest logit and where
it is) are done for a whole batch where that pays; everything that rounds is done row by row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from motet_kernels import Draw, LargestOps, SamplingOps
from motet_kernels.host_copy import copied_to
from numpy.typing import NDArray
from torch import Tensor

from motet.engine.draw import draw, largest, uniform
from motet.engine.processors import changes_logits, processed
from motet.engine.request import LogProb, SamplingParams
from motet.engine.token_counts import TokenCounts

__all__ = ["SampleRow", "Sampled", "Sampler", "TokenCounts"]


@dataclass(frozen=True)
class SampleRow:
    """What the choice of one row's next token depends on besides its logits.

    Raises ValueError for parameters that would draw at random and have no seed yet.
    """

    params: SamplingParams
    counts: TokenCounts

    def __post_init__(self) -> None:
        if not self.params.greedy and self.params.seed is None:
            raise ValueError("sampling needs a seed; take params.seeded() at submission")

    @property
    def position(self) -> int:
        """How many tokens the request has generated before this one."""
        return self.counts.num_generated

    @property
    def plain(self) -> bool:
        """Whether the next token is just the largest logit."""
        return self.params.greedy and self.bare

    @property
    def bare(self) -> bool:
        """Whether a token of the logits as they are is all that is wanted."""
        params = self.params
        return params.logprobs is None and not changes_logits(params, self.position)

    @property
    def draw(self) -> Draw:
        """How a `bare` row's token is chosen where the logits are."""
        params = self.params
        if params.greedy or params.seed is None:
            return Draw(temperature=0.0, min_p=0.0, top_k=0, top_p=1.0, u=0.0)
        u = uniform(params.seed, self.position)
        return Draw(params.temperature, params.min_p, params.top_k, params.top_p, u)


@dataclass(frozen=True)
class Sampled:
    """One row's token. `ok` is false, and `token_id` no token (-1), for a row that has none:
    its logits hold NaN or +inf, or every token has been ruled out."""

    token_id: int
    logprob: LogProb | None = None
    ok: bool = True


FAILED = Sampled(token_id=-1, ok=False)


def _plain(token: int) -> Sampled:
    """What a kernel chose: a token, or -1 for a row without one."""
    return FAILED if token < 0 else Sampled(token)


class Sampler:
    """Chooses tokens for a model whose end-of-sequence ids are `ends`. Holds no state.

    device: what draws tokens of logits that are on its device; None: only the largest logits are
    found there.
    host: what finds the largest logits of all rows at once on the CPU; None: numpy, row by row.
    """

    def __init__(
        self,
        ends: Iterable[int],
        device: SamplingOps | None = None,
        host: LargestOps | None = None,
    ) -> None:
        self._ends = frozenset(ends)
        self._device = device
        self._host = host

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        """logits [R, V] (float32, bfloat16 or float16, any device), R rows -> R tokens.

        Ties go to the lowest id. The logits are not changed. -inf is a token that cannot be
        chosen; a row with NaN or +inf fails alone (`Sampled.ok`). Raises ValueError if the
        number of rows is not R.
        """
        if logits.shape[0] != len(rows):
            raise ValueError(f"{logits.shape[0]} rows of logits for {len(rows)} rows to sample")
        if logits.device.type == "cpu":
            return self._sample_on_host(logits, rows)
        return self._sample_on_device(logits, rows)

    def _sample_on_host(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        arrays = HostLogits(logits)
        if self._host is None or not any(row.plain for row in rows):
            return [self._sample(arrays.row(i), row) for i, row in enumerate(rows)]
        tokens = self._host.largest(logits.detach()).tolist()
        return [
            _plain(tokens[i]) if row.plain else self._sample(arrays.row(i), row)
            for i, row in enumerate(rows)
        ]

    def _sample_on_device(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        """Tokens are chosen where the logits are. Only rows that need more are copied, together
        with the tokens: the host waits for the device once, and not at all for no rows."""
        if not rows:
            return []
        if self._device is None:
            others = [i for i, row in enumerate(rows) if not row.plain]
            values, ids = logits.max(dim=-1)
            chosen = ids.where(values.isfinite(), FAILED.token_id)
        else:
            others = [i for i, row in enumerate(rows) if not row.bare]
            chosen = self._device.choose(logits, [row.draw for row in rows])
        wanted = [chosen]
        if others:
            index = copied_to(logits.device, torch.tensor(others, dtype=torch.int64))
            wanted.append(logits.index_select(0, index))
        tokens, *rest = _on_host(*wanted)
        sampled = [_plain(token) for token in tokens.tolist()]
        for array in map(HostLogits, rest):
            for at, i in enumerate(others):
                sampled[i] = self._sample(array.row(at), rows[i])
        return sampled

    def _sample(self, logits: NDArray[np.float32], row: SampleRow) -> Sampled:
        best = int(logits.argmax())  # the first NaN, if there is one
        if not math.isfinite(logits[best]):
            return FAILED
        if row.plain:
            return Sampled(best)
        token_id = self._choose(logits, row)
        if token_id is None:
            return FAILED
        if row.params.logprobs is None:
            return Sampled(token_id)
        return Sampled(token_id, log_prob(logits, token_id, row.params.logprobs))

    def _choose(self, logits: NDArray[np.float32], row: SampleRow) -> int | None:
        params = row.params
        if changes_logits(params, row.position):
            logits = processed(logits, params, row.counts, self._ends)
        if params.greedy or params.seed is None:
            best = int(logits.argmax())
            return best if math.isfinite(logits[best]) else None
        if not math.isfinite(logits.max()):
            return None
        return draw(logits, params, uniform(params.seed, row.position))


def _on_host(*tensors: Tensor) -> list[Tensor]:
    """The tensors in host memory, all there when it returns."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


class HostLogits:
    """Rows of logits [R, V] in host memory, as float32 arrays, converted one at a time.

    numpy has no bfloat16, and a conversion by torch is spread over threads that cost more to
    meet than a row costs to convert.
    """

    def __init__(self, logits: Tensor) -> None:
        logits = logits.detach()
        self._is_bfloat16 = logits.dtype == torch.bfloat16
        bits = logits.view(torch.int16) if self._is_bfloat16 else logits
        self._array = bits.numpy()

    def row(self, index: int) -> NDArray[np.float32]:
        """[V]; may share the tensor's memory, so it must not be written to."""
        row: NDArray[np.float32] = self._array[index]
        if self._is_bfloat16:
            bits = row.view(np.uint16).astype(np.uint32)
            np.left_shift(bits, 16, out=bits)  # a bfloat16 is the upper half of a float32
            row = bits.view(np.float32)
        return row.astype(np.float32, copy=False)


def log_prob(logits: NDArray[np.float32], token_id: int, num_top: int) -> LogProb:
    """Log-softmax of logits [V] at `token_id` and at the `num_top` most probable tokens.

    Fewer than `num_top` where fewer tokens are possible at all. Differences and exponentials in
    float32, their sum in float64.
    """
    best = logits.max()
    log_sum = math.log(np.exp(logits - best).sum(dtype=np.float64))

    def at(index: int) -> float:
        return float(logits[index] - best) - log_sum

    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        kept = np.flatnonzero(largest(logits, num_top))
        ranked = kept[np.argsort(-logits[kept], kind="stable")]
        top = tuple((int(i), at(i)) for i in ranked if logits[i] > -np.inf)
    return LogProb(token_id, at(token_id), top)
