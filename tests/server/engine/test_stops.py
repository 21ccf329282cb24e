from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from motet.engine.stops import StopStrings

# Two letters make overlaps, repeats and near misses the rule rather than the exception.
TEXT = st.text(alphabet="ab", max_size=40)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=6), max_size=4).map(tuple)


def cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """The definition: the stop string complete first wins, of those the longest."""
    matches = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return (text[: min(matches)[1]], True) if matches else (text, False)


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(TEXT, STOPS, st.lists(st.integers(0, 40), max_size=10))
def test_any_split_is_cut_at_the_first_stop(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    stops = StopStrings(stop)
    emitted = ""
    for piece in pieces_of(text, cuts):
        shown, stopped = stops.push(piece)
        assert stopped == stops.stopped
        emitted += shown
    expected, expected_stop = cut(text, stop)
    assert (emitted + stops.flush(), stops.stopped) == (expected, expected_stop)


@given(TEXT, STOPS)
def test_no_more_is_held_back_than_may_begin_a_stop(text: str, stop: tuple[str, ...]) -> None:
    stops = StopStrings(stop)
    emitted = "".join(stops.push(character)[0] for character in text)
    if stops.stopped:
        return
    beginnings = [s[:n] for s in stop for n in range(1, len(s))]
    longest = max((len(b) for b in beginnings if text.endswith(b)), default=0)
    assert len(text) - len(emitted) == longest


def test_without_stop_strings_everything_passes_at_once() -> None:
    stops = StopStrings(())
    assert stops.push("any text") == ("any text", False)
    assert stops.flush() == ""


def test_a_beginning_is_held_and_released() -> None:
    stops = StopStrings(("###",))
    assert stops.push("a##") == ("a", False)
    assert stops.push("b#") == ("##b", False)
    assert stops.flush() == "#"


def test_nothing_follows_a_stop() -> None:
    stops = StopStrings(("END",))
    assert stops.push("text E") == ("text ", False)
    assert stops.push("ND and more") == ("", True)
    assert stops.push("still more") == ("", True)
    assert stops.flush() == ""


def test_the_longest_of_those_complete_at_once_wins() -> None:
    assert StopStrings(("d", "bcd", "cd")).push("abcd") == ("a", True)


def test_the_first_complete_wins_over_an_earlier_beginning() -> None:
    assert StopStrings(("abcd", "bc")).push("abcd") == ("a", True)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="leave it out"):
        StopStrings(("x", ""))


def test_a_long_stop_string_does_not_make_a_character_dear() -> None:
    """A stop of 20,000 equal letters against text that nearly matches: linear, not squared."""
    stops = StopStrings(("a" * 20_000 + "b",))
    start = time.perf_counter()
    stops.push("a" * 60_000)
    assert time.perf_counter() - start < 20  # squared would be 1e9 comparisons
