"""What a request's parameters do to a row of logits before a token is chosen from it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from motet.engine.request import SamplingParams
from motet.engine.token_counts import TokenCounts


def changes_logits(params: SamplingParams, position: int) -> bool:
    """Whether `processed` would change the logits of the token at `position` (0: the first)."""
    return bool(params.logit_bias) or params.penalised or position < params.min_tokens


def processed(
    logits: NDArray[np.float32],
    params: SamplingParams,
    counts: TokenCounts,
    ends: Iterable[int],
) -> NDArray[np.float32]:
    """logits [V] -> a new [V]: bias, then penalties, then the end tokens held off.

    `ends` are the model's end-of-sequence ids.

    - logit_bias is added.
    - repetition_penalty r divides the positive logits of every token of prompt and output by r
      and multiplies the others (CTRL, Keskar et al. 2019, section 4.1).
    - frequency_penalty and presence_penalty are subtracted from the tokens of the output,
      the first once per occurrence, the second once (OpenAI's API reference).
    - Until min_tokens have been generated, `ends` and stop_token_ids cannot be chosen.
    """
    logits = logits.copy()
    if params.logit_bias:
        ids = np.fromiter(params.logit_bias.keys(), dtype=np.int64)
        logits[ids] += np.fromiter(params.logit_bias.values(), dtype=np.float32)
    if params.penalised:
        _penalise(logits, params, counts)
    if counts.num_generated < params.min_tokens:
        # A checkpoint may name an end token its head has no row for: nothing to hold off then.
        held_off = [i for i in (*ends, *params.stop_token_ids) if i < len(logits)]
        logits[held_off] = -np.inf
    return logits


def _penalise(logits: NDArray[np.float32], params: SamplingParams, counts: TokenCounts) -> None:
    ids, times = counts.seen()
    values = logits[ids].astype(np.float64)
    factor = params.repetition_penalty
    values = np.where(values > 0, values / factor, values * factor)
    values -= params.frequency_penalty * times
    values -= params.presence_penalty * (times > 0)
    logits[ids] = values
