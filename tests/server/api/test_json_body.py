import json
import time

import pytest
from motet.api.completion_request import CompletionRequest
from motet.api.json_body import depth, parse_json
from motet.api.schemas import Bounds
from motet.errors import RequestRefused
from motet.settings import Settings

BOUNDS = Bounds(Settings(), 257)


@pytest.mark.parametrize(
    ("document", "levels"),
    [(1, 0), ([], 1), ({}, 1), ([[1], {"a": [2]}], 3), ({"a": {"b": {"c": []}}}, 4)],
)
def test_depth(document: object, levels: int) -> None:
    assert depth(document) == levels


def test_many_brackets_are_not_depth() -> None:
    body = json.dumps({"model": "x", "prompt": [[1]] * 100}).encode()
    assert len(parse_json(body, CompletionRequest, 64, BOUNDS).prompts) == 100


def test_a_deep_body_is_refused_before_it_is_validated() -> None:
    body = b'{"unknown": ' + b"[" * 70 + b"]" * 70 + b"}"
    with pytest.raises(RequestRefused, match="deeper than 64"):
        parse_json(body, CompletionRequest, 64, BOUNDS)


def test_a_large_wrong_body_makes_a_small_error_soon() -> None:
    body = json.dumps({"model": "x", "prompt": [["a"]] * 100_000}).encode()
    started = time.perf_counter()
    with pytest.raises(RequestRefused) as error:
        parse_json(body, CompletionRequest, 64, BOUNDS)
    assert len(error.value.message) < 200
    assert time.perf_counter() - started < 10


def test_an_unknown_name_is_shown_harmless_and_short() -> None:
    body = json.dumps({"model": "x", "prompt": "x", "\u202e\n\x1b" * 500: 1}).encode()
    with pytest.raises(RequestRefused) as error:
        parse_json(body, CompletionRequest, 64, BOUNDS)
    assert error.value.message.isascii()
    assert error.value.message.isprintable()
    assert len(error.value.message) < 300


def test_braces_in_a_field_name_are_no_template() -> None:
    body = json.dumps({"model": "x", "prompt": "x", "{0.__class__}": 1}).encode()
    with pytest.raises(RequestRefused, match="__class__"):
        parse_json(body, CompletionRequest, 64, BOUNDS)
