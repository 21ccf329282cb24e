import json
import math
from typing import Any

import pytest
from motet.engine.request import LogProb

from tests.support import scripted_engine
from tests.support.live_server import BASE_NAME, LiveServer
from tests.support.scripted_engine import DEFAULT_TEXT


def ask(server: LiveServer, **fields: Any) -> Any:
    body = {"model": BASE_NAME, "prompt": "Sing", "max_tokens": 6, **fields}
    with server.client("acme") as client:
        reply = client.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply


def events(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    text = ask(server, stream=True, **fields).text
    assert text.endswith("data: [DONE]\n\n")
    blocks = text.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def test_a_completion_has_openais_form(server: LiveServer) -> None:
    reply = ask(server)
    document = reply.json()
    assert document.pop("id").startswith("cmpl-")
    assert document.pop("created") > 0
    fingerprint = document.pop("system_fingerprint")
    assert document == {
        "object": "text_completion",
        "model": BASE_NAME,
        "choices": [
            {"index": 0, "text": DEFAULT_TEXT[:6], "logprobs": None, "finish_reason": "length"}
        ],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": 6,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }
    assert fingerprint == f"fp_{server.base.fingerprint[:12]}"
    assert "x-adapter-digest" not in reply.headers
    assert reply.headers["openai-processing-ms"].isdecimal()


def test_an_answer_says_which_adapter_gave_it(server: LiveServer) -> None:
    digest = server.store.get("acme", "sql").digest
    whole = ask(server, model="sql")
    streamed = ask(server, model="sql", stream=True)
    assert whole.headers["x-adapter-digest"] == streamed.headers["x-adapter-digest"] == digest
    assert whole.json()["system_fingerprint"].endswith(f"_{digest[:12]}")
    request = server.engine.seen[-1]
    assert request.adapter is not None
    assert request.adapter.digest == digest
    assert request.tenant == "acme"


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("ab", [(97, 98)]),
        (["ab", "c"], [(97, 98), (99,)]),
        ([97, 98], [(97, 98)]),
        ([[97], [98, 99]], [(97,), (98, 99)]),
    ],
)
def test_a_prompt_may_be_text_or_tokens_one_or_many(
    server: LiveServer, prompt: Any, tokens: list[tuple[int, ...]]
) -> None:
    before = len(server.engine.seen)
    document = ask(server, prompt=prompt).json()
    assert [request.prompt for request in server.engine.seen[before:]] == tokens
    assert [choice["index"] for choice in document["choices"]] == list(range(len(tokens)))
    assert document["usage"]["prompt_tokens"] == sum(map(len, tokens))


def test_every_prompt_has_n_choices_side_by_side(server: LiveServer) -> None:
    before = len(server.engine.seen)
    document = ask(server, prompt=["a", "bc"], n=3, seed=5).json()
    seen = server.engine.seen[before:]
    assert [request.prompt for request in seen] == [(97,)] * 3 + [(98, 99)] * 3
    assert [request.params.seed for request in seen] == [5, 6, 7] * 2
    assert len({request.id for request in seen}) == 6
    assert len(document["choices"]) == 6
    # Each prompt counts once, whatever n is.
    assert document["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 36,
        "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_without_max_tokens_a_completion_is_16_long(server: LiveServer) -> None:
    document = ask(server, max_tokens=None).json()
    assert document["usage"]["completion_tokens"] == 16


def test_logprobs_are_parallel_lists(server: LiveServer) -> None:
    choice = ask(server, max_tokens=3, logprobs=2).json()["choices"][0]
    assert choice["logprobs"] == {
        "tokens": ["T", "h", "e"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [
            {"T": -0.5, "U": -1.0},
            {"h": -0.5, "i": -1.0},
            {"e": -0.5, "f": -1.0},
        ],
        "text_offset": [0, 1, 2],
    }
    assert ask(server, max_tokens=1, logprobs=0).json()["choices"][0]["logprobs"][
        "top_logprobs"
    ] == [{"T": -0.5}]


def test_a_stream_says_the_same_as_a_whole_answer(server: LiveServer) -> None:
    whole = ask(server, max_tokens=40, logprobs=1).json()["choices"][0]
    chunks = events(server, max_tokens=40, logprobs=1)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        streamed = [entry for choice in choices for entry in choice["logprobs"][name]]
        assert streamed == whole["logprobs"][name]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == "length"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert not any("usage" in chunk for chunk in chunks)


def test_the_last_chunk_holds_the_usage_if_asked(server: LiveServer) -> None:
    chunks = events(server, stream_options={"include_usage": True}, n=2)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 12,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == {0: DEFAULT_TEXT[:6], 1: DEFAULT_TEXT[:6]}


def test_a_stream_goes_through_proxies_unbuffered(server: LiveServer) -> None:
    headers = ask(server, stream=True).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_every_sampling_field_reaches_the_engine(server: LiveServer) -> None:
    ask(
        server,
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        seed=-3,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=-0.2,
        logit_bias={"5": 3, "256": -100},
        stop=["\n", "END"],
        stop_token_ids=[7],
        ignore_eos=True,
        logprobs=1,
    )
    params = server.engine.seen[-1].params
    assert (params.max_tokens, params.min_tokens, params.seed) == (9, 2, -3)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 7, 0.1)
    assert params.repetition_penalty == 1.1
    assert (params.presence_penalty, params.frequency_penalty) == (0.2, -0.2)
    assert dict(params.logit_bias) == {5: 3.0, 256: -100.0}
    assert params.stop == ("\n", "END")
    assert params.stop_token_ids == (7,)
    assert params.ignore_eos
    assert params.logprobs == 1


def test_null_counts_as_left_out_and_harmless_fields_are_taken(server: LiveServer) -> None:
    ask(
        server,
        temperature=None,
        top_p=None,
        stop=None,
        n=None,
        seed=None,
        logit_bias=None,
        logprobs=None,
        stream=None,
        stream_options=None,
        suffix=None,
        best_of=1,
        echo=False,
        user="somebody",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
    )
    params = server.engine.seen[-1].params
    assert (params.temperature, params.top_p, params.stop) == (1.0, 1.0, ())


def test_one_stop_string_need_not_be_a_list(server: LiveServer) -> None:
    ask(server, stop="\n")
    assert server.engine.seen[-1].params.stop == ("\n",)


def test_an_impossible_token_is_still_json(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        scripted_engine, "_logprob", lambda id, _: LogProb(id, -1.0, ((1, -math.inf),))
    )
    fields = {"logprobs": 1, "max_tokens": 1}
    whole = ask(server, **fields).json()["choices"][0]
    (streamed,) = events(server, **fields)
    for choice in (whole, streamed["choices"][0]):
        assert choice["logprobs"]["top_logprobs"] == [{"\x01": -9999.0, "T": -1.0}]


def test_held_back_tokens_make_no_empty_chunks(server: LiveServer) -> None:
    chunks = events(server, max_tokens=len(DEFAULT_TEXT) + 5)
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert all(texts[:-1])
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
