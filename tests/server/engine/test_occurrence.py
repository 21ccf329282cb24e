import pytest
from hypothesis import given
from hypothesis import strategies as st
from motet.engine.occurrence import last_occurrence

TOKENS = st.lists(st.integers(0, 2), max_size=40)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        ([1], [], None),
        ([1], [1], 0),
        ([1, 1], [1, 1, 1], 1),
        ([1, 2, 1], [1, 2, 1, 2, 1, 0], 2),
        ([1, 2], [2, 1], None),
        ([1, 2, 3], [1, 2], None),
    ],
)
def test_the_last_one_is_found(part: list[int], whole: list[int], expected: int | None) -> None:
    assert last_occurrence(part, whole) == expected


@given(part=TOKENS.filter(bool), whole=TOKENS)
def test_it_is_what_looking_everywhere_finds(part: list[int], whole: list[int]) -> None:
    every = [i for i in range(len(whole)) if whole[i : i + len(part)] == part]
    assert last_occurrence(part, whole) == (every[-1] if every else None)


def test_repetition_costs_one_pass() -> None:
    """A search that begins anew everywhere would take minutes here."""
    assert last_occurrence([1] * 30_000 + [2], [1] * 60_000) is None
