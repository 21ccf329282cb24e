from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from motet.engine.token_counts import TokenCounts

IDS = st.lists(st.integers(0, 300), max_size=200)


@given(IDS, IDS, st.sets(st.integers(0, 200)))
def test_counts_are_those_of_the_tokens_however_often_they_are_read(
    prompt: list[int], generated: list[int], reads: set[int]
) -> None:
    counts = TokenCounts(prompt)
    for step, token_id in enumerate(generated):
        if step in reads:
            counts.seen()
        counts.add(token_id)
    ids, times = counts.seen()
    expected = Counter(generated) | Counter(dict.fromkeys(prompt, 0))
    for token_id in prompt:
        expected.setdefault(token_id, 0)
    assert dict(zip(ids.tolist(), times.tolist(), strict=True)) == dict(expected)
    assert counts.num_generated == len(generated)


@given(IDS, IDS)
def test_counts_made_again_from_the_tokens_are_the_same(
    prompt: list[int], generated: list[int]
) -> None:
    grown = TokenCounts(prompt)
    for token_id in generated:
        grown.add(token_id)
        grown.seen()
    again = TokenCounts(prompt, generated)
    assert [a.tolist() for a in grown.seen()] == [a.tolist() for a in again.seen()]
    assert grown.num_generated == again.num_generated
