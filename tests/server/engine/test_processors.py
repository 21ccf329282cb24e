from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from motet.engine.processors import changes_logits, processed
from motet.engine.request import SamplingParams
from motet.engine.token_counts import TokenCounts

VOCAB = 12
ENDS = (3, 99)  # a checkpoint may name an end token that its head has no row for
LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=VOCAB, max_size=VOCAB)
IDS = st.lists(st.integers(0, VOCAB - 1), max_size=10)
PENALTY = st.one_of(st.just(0.0), st.floats(-2, 2))

PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.just(20),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3, 10.0]),
    presence_penalty=PENALTY,
    frequency_penalty=PENALTY,
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100)),
    stop_token_ids=IDS.map(tuple),
    min_tokens=st.integers(0, 12),
)


def reference(
    logits: list[float], params: SamplingParams, prompt: list[int], generated: list[int]
) -> list[float]:
    """The definition, one token at a time, in float64."""
    result = []
    for token_id, logit in enumerate(logits):
        value = logit + params.logit_bias.get(token_id, 0.0)
        if token_id in prompt + generated:
            factor = params.repetition_penalty
            value = value / factor if value > 0 else value * factor
        value -= params.frequency_penalty * generated.count(token_id)
        value -= params.presence_penalty * (token_id in generated)
        if len(generated) < params.min_tokens and token_id in (*ENDS, *params.stop_token_ids):
            value = -np.inf
        result.append(value)
    return result


@given(LOGITS, PARAMS, IDS, IDS)
def test_processed_logits_follow_the_definition(
    logits: list[float], params: SamplingParams, prompt: list[int], generated: list[int]
) -> None:
    given_logits = np.array(logits, dtype=np.float32)
    counts = TokenCounts(prompt, generated)
    result = processed(given_logits, params, counts, ENDS)
    expected = reference(logits, params, prompt, generated)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-3)
    assert given_logits.tolist() == logits  # the caller's row is left alone


@given(LOGITS, PARAMS, IDS, IDS)
def test_what_changes_nothing_is_known_beforehand(
    logits: list[float], params: SamplingParams, prompt: list[int], generated: list[int]
) -> None:
    row = np.array(logits, dtype=np.float32)
    result = processed(row, params, TokenCounts(prompt, generated), ENDS)
    if not changes_logits(params, len(generated)):
        assert result.tolist() == logits


def test_each_processor_is_off_by_default() -> None:
    assert not changes_logits(SamplingParams(max_tokens=5), 0)


def test_end_tokens_are_held_off_just_until_min_tokens() -> None:
    params = SamplingParams(max_tokens=5, min_tokens=2, stop_token_ids=(1,))
    logits = np.zeros(VOCAB, dtype=np.float32)
    for num_generated, held_off in ((0, True), (1, True), (2, False)):
        counts = TokenCounts([0], [0] * num_generated)
        assert changes_logits(params, num_generated) == held_off
        result = processed(logits, params, counts, ENDS)
        assert np.isneginf(result).tolist() == [held_off and i in (1, 3) for i in range(VOCAB)]
