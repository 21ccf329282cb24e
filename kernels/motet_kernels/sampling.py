"""Choosing tokens where the logits are."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Draw(NamedTuple):
    """How one row's token is chosen."""

    temperature: float  # 0: the largest logit
    min_p: float
    top_k: int  # 0: off
    top_p: float
    u: float  # in [0, 1)


@runtime_checkable
class SamplingOps(Protocol):
    """What an implementation of Ops has besides if it chooses tokens on its device."""

    def choose(self, logits: Tensor, draws: list[Draw]) -> Tensor:
        """logits [R, V] -> int64 [R] on their device: a token of each row, without waiting for it.

        The distribution is softmax(logits / temperature), of which min_p, top_k and top_p, in this
        order, leave a part; the token is where the sum of its probabilities in the order of ids
        passes u of the whole. Of equal logits those with lower ids come first. -1 for a row that
        holds NaN or +inf, or nothing but -inf. A row's token is a function of that row alone.
        """


@runtime_checkable
class LargestOps(Protocol):
    """What an implementation of Ops has besides if it finds largest logits on the host."""

    def largest(self, logits: Tensor) -> Tensor:
        """logits [R, V] (float32, bfloat16 or float16, on the CPU) -> int64 [R]: where each row is
        largest, the first place of equals. -1 for a row that holds NaN or +inf, or nothing but
        -inf."""
