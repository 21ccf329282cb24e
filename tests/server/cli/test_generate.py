import json

import pytest

from tests.support.scripted_server import scripted_server

MODELS = (200, {"data": [{"id": "the-base"}, {"id": "red"}]})


def _stream(*events, end="data: [DONE]\n\n"):
    return 200, ": ping\n\n" + "".join(f"data: {json.dumps(e)}\n\n" for e in events) + end


def _chat(text, reason=None):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


def test_the_base_answers_where_no_model_is_named(run):
    answer = _stream(
        {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
        _chat("Bon"),
        _chat("jour é", "stop"),
        {"choices": [], "usage": {"total_tokens": 3}},
    )
    answers = {"GET /v1/models": MODELS, "POST /v1/chat/completions": answer}
    with scripted_server(answers) as server:
        result = run("generate", "Say hello", "--url", server.url)
    assert result.stdout == "Bonjour é\n"
    assert json.loads(server.seen[1].body) == {
        "model": "the-base",
        "messages": [{"role": "user", "content": "Say hello"}],
        "max_tokens": 256,
        "temperature": 1.0,
        "stream": True,
    }


def test_every_flag_reaches_the_request(run):
    with scripted_server({"POST /v1/chat/completions": _stream(_chat("x", "length"))}) as server:
        sampling = ("--max-tokens", 5, "--temperature", 0, "--seed", 7)
        flags = ("--model", "red", "--system", "Be-short", "--url", server.url, *sampling)
        result = run("generate", "-", *flags, input="from stdin")
    body = json.loads(server.seen[0].body)
    assert body["model"] == "red"
    assert body["messages"] == [
        {"role": "system", "content": "Be-short"},
        {"role": "user", "content": "from stdin"},
    ]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (5, 0.0, 7)
    assert "cut off after 5 tokens" in result.stderr


def test_raw_continues_plain_text(run):
    event = {"choices": [{"index": 0, "text": " time", "finish_reason": "stop"}]}
    with scripted_server({"POST /v1/completions": _stream(event)}) as server:
        result = run("generate", "Once upon a", "--raw", "--model", "red", "--url", server.url)
    assert json.loads(server.seen[0].body)["prompt"] == "Once upon a"
    assert result.stdout == " time\n"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((404, {"error": {"message": "The model 'red' does not exist."}}), "does not exist"),
        ((500, "oops"), "answered 500 Internal Server Error"),
        (_stream({"error": {"message": "The engine failed."}}), "The engine failed."),
        (_stream(_chat("half"), end=""), "ended before the answer was complete"),
    ],
)
def test_failures_are_sentences(run, answer, sentence):
    with scripted_server({"POST /v1/chat/completions": answer}) as server:
        result = run("generate", "x", "--model", "red", "--url", server.url)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_raw_and_system_do_not_go_together(run):
    result = run("generate", "x", "--raw", "--system", "y")
    assert result.exit_code == 2
    assert "--system has no place" in result.stderr
