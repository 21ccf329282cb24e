from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from motet.engine.request import Request, SamplingParams
from motet_adapters import Adapter

ADAPTER = Adapter(
    tenant="acme",
    name="style",
    digest="0" * 64,
    kind="lora",
    ranks=(4,),
    matched={"q_proj": 2},
    num_parameters=64,
    source_bytes=128,
    image_bytes=128,
    created=0,
)


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("max_tokens", 0, "at least 1"),
        ("temperature", -0.1, r"0 \(greedy\) or a positive"),
        ("temperature", math.inf, "positive number"),
        ("temperature", math.nan, "positive number"),
        ("top_p", 0.0, "temperature=0"),
        ("top_p", 1.01, "at most 1"),
        ("top_p", math.nan, "at most 1"),
        ("top_k", -1, r"0 \(off\)"),
        ("min_p", -0.1, "between 0 and 1"),
        ("min_p", 1.1, "between 0 and 1"),
        ("seed", 2**63, "64 signed bits"),
        ("repetition_penalty", 0.0, "between 0.01 and 100"),
        ("repetition_penalty", math.nan, "between 0.01 and 100"),
        ("presence_penalty", 2.1, "between -2 and 2"),
        ("frequency_penalty", -2.1, "between -2 and 2"),
        ("logit_bias", {-1: 1.0}, "0 or more"),
        ("logit_bias", {1: 101.0}, "between -100 and 100"),
        ("logit_bias", {1: math.nan}, "between -100 and 100"),
        ("stop", "text", r"write \(text,\)"),
        ("stop", ("a", ""), "leave it out"),
        ("stop_token_ids", (3, -1), "0 or more"),
        ("min_tokens", 9, "between 0 and max_tokens"),
        ("min_tokens", -1, "between 0 and max_tokens"),
        ("logprobs", 21, "between 0 and 20"),
        ("logprobs", -1, "between 0 and 20"),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(field: str, value: Any, fix: str) -> None:
    with pytest.raises(ValueError, match=fix) as refusal:
        SamplingParams(**{"max_tokens": 8, field: value})
    assert field in str(refusal.value)


def test_the_edges_of_every_range_are_allowed() -> None:
    SamplingParams(
        max_tokens=1,
        temperature=0,
        top_p=1,
        min_p=1,
        seed=-(2**63),
        repetition_penalty=0.01,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={0: -100},
        min_tokens=1,
        logprobs=20,
    )


def test_logit_bias_is_a_private_read_only_copy() -> None:
    given = {1: 2.0}
    params = SamplingParams(max_tokens=1, logit_bias=given)
    given[1] = 99.0
    assert params.logit_bias[1] == 2.0
    with pytest.raises(TypeError):
        params.logit_bias[1] = 3.0  # type: ignore[index]
    assert hash(params) == hash(SamplingParams(max_tokens=1, logit_bias={1: 2.0}))


def test_a_missing_seed_is_drawn_afresh_and_then_stays() -> None:
    params = SamplingParams(max_tokens=1)
    seeds = {params.seeded().seed for _ in range(8)}
    assert len(seeds) == 8
    assert None not in seeds
    drawn = params.seeded()
    assert drawn.seeded() == drawn


def test_the_choices_of_a_request_have_consecutive_seeds() -> None:
    params = SamplingParams(max_tokens=1, seed=7)
    assert [params.seeded(choice).seed for choice in range(3)] == [7, 8, 9]
    largest = replace(params, seed=2**63 - 1)
    assert largest.seeded(1).seed == -(2**63)


def test_token_ids_are_checked_against_the_vocabulary() -> None:
    SamplingParams(max_tokens=1).check_vocabulary(1)
    SamplingParams(max_tokens=1, logit_bias={9: 1.0}, stop_token_ids=(8,)).check_vocabulary(10)
    for params in (
        SamplingParams(max_tokens=1, logit_bias={10: 1.0}),
        SamplingParams(max_tokens=1, stop_token_ids=(10,)),
    ):
        with pytest.raises(ValueError, match="end at 9"):
            params.check_vocabulary(10)


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "id": "r",
        "prompt": (1, 2),
        "params": SamplingParams(max_tokens=1),
        "adapter": None,
        "tenant": "acme",
    }
    return Request(**(values | changes))


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("id", "", "unique string"),
        ("tenant", "", "needs the tenant"),
        ("prompt", (), "at least one token"),
        ("prompt", (1, -2), "0 or more"),
    ],
)
def test_a_request_that_cannot_run_is_refused(field: str, value: Any, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        request(**{field: value})


def test_an_adapter_of_another_tenant_is_refused() -> None:
    assert request(adapter=ADAPTER).adapter == ADAPTER
    with pytest.raises(ValueError, match="another tenant"):
        request(adapter=replace(ADAPTER, tenant="other"))
