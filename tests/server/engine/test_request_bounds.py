"""How long a request may be, virtual tokens included."""

from dataclasses import replace

import pytest
from motet.engine.request import Request, SamplingParams
from motet.engine.request_bounds import RequestBounds
from motet.errors import RequestRefused
from motet_adapters import Adapter

BOUNDS = RequestBounds(
    vocab_size=100, max_model_len=50, max_positions=64, num_blocks=5, block_size=16
)


def adapter(num_virtual_tokens: int) -> Adapter:
    return Adapter(
        tenant="t",
        name="a",
        digest="0",
        kind="prompt-tuning",
        ranks=(),
        matched={"prefix": 1},
        num_parameters=1,
        source_bytes=1,
        image_bytes=1,
        created=0,
        num_virtual_tokens=num_virtual_tokens,
    )


@pytest.mark.parametrize(
    ("num_virtual_tokens", "longest"),
    [
        (10, 50),  # beside the 50 real tokens there are 14 positions to spare
        (14, 50),
        (15, 49),
        (64, 0),
        (80, 0),
    ],
)
def test_virtual_tokens_take_positions_and_no_tokens(num_virtual_tokens: int, longest: int) -> None:
    assert BOUNDS.max_len(adapter(num_virtual_tokens)) == longest


def test_a_copied_block_is_counted() -> None:
    """With 48 positions of KV cache, five virtual tokens take one block and a copy of it."""
    small = replace(BOUNDS, num_blocks=3)
    assert small.max_len(None) == 48
    assert small.max_len(adapter(16)) == 32
    assert small.max_len(adapter(5)) == 27


def test_a_request_over_the_adapters_limit_is_told_so() -> None:
    params = SamplingParams(max_tokens=10)
    fits = Request("1", (5,) * 39, params, adapter(15), "t")
    BOUNDS.check(fits)
    with pytest.raises(RequestRefused, match="this server's limit with this adapter is 49") as told:
        BOUNDS.check(replace(fits, prompt=(5,) * 40))
    assert told.value.code == "context_length_exceeded"
    BOUNDS.check(replace(fits, prompt=(5,) * 40, adapter=None))
