"""What the engine promises those who submit: one terminal event each, whatever happens."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet.engine.batch import Batch
from motet.engine.request import Event, Finished, Token
from motet.engine.runtime import Runtime
from motet.errors import EngineBusy, EngineStopped, InvalidSetting, RequestRefused
from torch import Tensor

from tests.support.serving import Outcome, again, request, run, served, submit
from tests.support.tiny_models import VOCAB_SIZE, make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint", "llama")


@pytest.fixture
def runtime(checkpoint: Path) -> Iterator[Runtime]:
    with served(checkpoint, checkpoint.parent / "data", max_waiting=4) as runtime:
        yield runtime
        # Whatever a test did, nothing may be left behind.
        runtime.engine.stop()
        stats = runtime.engine.stats()
        assert stats.num_running == stats.num_waiting == 0
        assert stats.num_free_blocks == stats.num_blocks


class Held:
    """Stops the engine thread in its first forward pass until it is let go."""

    def __init__(self, runtime: Runtime) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self._forward = runtime.engine._model.forward
        runtime.engine._model.forward = self  # type: ignore[method-assign,assignment]

    def __call__(self, batch: Batch) -> Tensor:
        self.entered.set()
        assert self.go_on.wait(60)
        return self._forward(batch)


def test_it_computes_with_its_threads_whatever_another_thread_sets(runtime: Runtime) -> None:
    num_threads = torch.get_num_threads()
    other = threading.Thread(target=torch.set_num_threads, args=(num_threads + 3,))
    other.start()
    other.join()
    forward, seen = runtime.engine._model.forward, set()

    def noting(batch: Batch) -> Tensor:
        seen.add(torch.get_num_threads())
        return forward(batch)

    runtime.engine._model.forward = noting  # type: ignore[method-assign]
    try:
        run(runtime, [request([5], max_tokens=2)])
    finally:
        torch.set_num_threads(num_threads)  # what threads of later tests begin with
    assert seen == {num_threads}


def test_a_prompt_that_can_never_fit_is_refused(runtime: Runtime) -> None:
    limit = runtime.engine.max_model_len
    with pytest.raises(RequestRefused, match="shorten the prompt or lower max_tokens") as refusal:
        runtime.engine.submit(request([5] * limit, max_tokens=1), Outcome().deliver)
    assert refusal.value.code == "context_length_exceeded"
    (outcome,) = run(runtime, [request([5] * (limit - 1), max_tokens=1)])
    assert outcome.finished.reason in ("length", "stop")


def test_tokens_outside_the_vocabulary_are_refused(runtime: Runtime) -> None:
    with pytest.raises(RequestRefused, match="outside the vocabulary"):
        runtime.engine.submit(request([VOCAB_SIZE]), Outcome().deliver)
    with pytest.raises(RequestRefused):
        runtime.engine.submit(request([5], logit_bias={VOCAB_SIZE: 1.0}), Outcome().deliver)


def test_an_id_that_is_running_is_refused(runtime: Runtime) -> None:
    item = request([5], max_tokens=200, ignore_eos=True)
    (first,) = submit(runtime, [item])
    with pytest.raises(RequestRefused, match="already running"):
        runtime.engine.submit(item, Outcome().deliver)
    runtime.engine.cancel(item.id)
    assert first.wait().finished.reason == "cancelled"


def test_too_many_waiting_is_busy_and_the_accepted_ones_end_well(runtime: Runtime) -> None:
    held = Held(runtime)
    (first,) = submit(runtime, [request([5])])
    assert held.entered.wait(60)
    waiting = submit(runtime, [request([6]) for _ in range(4)])
    with pytest.raises(EngineBusy, match="try again"):
        runtime.engine.submit(request([7]), Outcome().deliver)
    held.go_on.set()
    for outcome in (first, *waiting):
        assert outcome.wait().finished.reason in ("length", "stop")


def test_cancelling_ends_a_request_at_the_next_step(runtime: Runtime) -> None:
    told = threading.Event()
    outcome, item = Outcome(), request([5], max_tokens=400, ignore_eos=True)

    def deliver(event: Event) -> None:
        outcome.deliver(event)
        told.set()

    runtime.engine.submit(item, deliver)
    assert told.wait(60)
    runtime.engine.cancel(item.id)
    assert outcome.wait().finished.reason == "cancelled"
    assert len(outcome.token_ids) < 400
    runtime.engine.cancel(item.id)  # long gone: nothing happens
    runtime.engine.cancel("never was")


def test_a_callback_that_raises_ends_its_own_request_alone(runtime: Runtime) -> None:
    ended = threading.Event()

    def deliver(event: Event) -> None:
        if isinstance(event, Finished):
            ended.set()
        raise OSError("the client is gone")

    runtime.engine.submit(request([5], max_tokens=400, ignore_eos=True), deliver)
    (other,) = run(runtime, [request([5], ignore_eos=True)])
    assert other.finished.reason == "length"
    assert ended.wait(60)
    assert runtime.engine.healthy


def test_a_failed_pass_ends_its_requests_and_the_next_ones_run(runtime: Runtime) -> None:
    forward = runtime.engine._model.forward

    def fails_once(batch: Batch) -> Tensor:
        runtime.engine._model.forward = forward  # type: ignore[method-assign]
        raise RuntimeError("a kernel failed")

    runtime.engine._model.forward = fails_once  # type: ignore[method-assign]
    (bad,) = run(runtime, [request([5])])
    assert bad.finished.reason == "error"
    assert bad.finished.message is not None
    assert "kernel" not in bad.finished.message  # the log has it, the client does not
    (good,) = run(runtime, [request([5], ignore_eos=True)])
    assert good.finished.reason == "length"
    assert runtime.engine.stats().num_failed_steps == 1
    assert runtime.engine.healthy


def test_an_engine_that_keeps_failing_says_so(checkpoint: Path) -> None:
    with served(checkpoint, checkpoint.parent / "data") as runtime:
        threading.excepthook, hook = lambda _: None, threading.excepthook
        try:

            def fails(batch: Batch) -> Tensor:
                raise RuntimeError("a kernel failed")

            runtime.engine._model.forward = fails  # type: ignore[method-assign]
            for _ in range(3):
                (outcome,) = run(runtime, [request([5])])
                assert outcome.finished.reason == "error"
            runtime.engine._thread.join(60)
        finally:
            threading.excepthook = hook
        assert not runtime.engine.healthy
        with pytest.raises(EngineStopped):
            runtime.engine.submit(request([5]), Outcome().deliver)


def test_a_row_without_finite_logits_fails_alone(runtime: Runtime) -> None:
    forward, victim = runtime.engine._model.forward, request([9], ignore_eos=True)

    def poisoned(batch: Batch) -> Tensor:
        logits = forward(batch).clone()
        for row, values in zip(batch.sampling_rows, logits, strict=True):
            if row.sequence.request.id == victim.id:
                values.fill_(torch.nan)
        return logits

    runtime.engine._model.forward = poisoned  # type: ignore[method-assign]
    bad, good = run(runtime, [victim, request([5], ignore_eos=True)])
    assert (bad.finished.reason, bad.token_ids) == ("error", [])
    assert good.finished.reason == "length"


def test_stop_strings_stop_tokens_and_min_tokens(runtime: Runtime) -> None:
    free = request([5, 6, 7], max_tokens=24, ignore_eos=True)
    (whole,) = run(runtime, [free])
    stop_at = whole.token_ids[5]
    first = whole.token_ids.index(stop_at) + 1
    params = {"max_tokens": 24, "ignore_eos": True, "stop_token_ids": (stop_at,)}
    (stopped,) = run(runtime, [request([5, 6, 7], **params)])
    assert stopped.finished.reason == "stop"
    assert stopped.token_ids == whole.token_ids[:first]
    (longer,) = run(runtime, [request([5, 6, 7], min_tokens=first + 1, **params)])
    assert len(longer.token_ids) > first
    text = whole.text
    stop = text[3:5]
    (cut,) = run(runtime, [request([5, 6, 7], max_tokens=24, ignore_eos=True, stop=(stop,))])
    assert cut.finished.reason == "stop"
    assert cut.text == text[: text.index(stop)]


def test_the_same_request_again_gives_the_same_events(runtime: Runtime) -> None:
    item = request([5, 6], temperature=1.0, seed=3, logprobs=2, ignore_eos=True)
    one, two = (run(runtime, [each])[0] for each in (item, again(item)))
    assert one.token_ids == two.token_ids
    tokens = [event for event in one.events if isinstance(event, Token)]
    assert all(event.logprob is not None and len(event.logprob.top) == 2 for event in tokens)


def test_draining_finishes_what_runs_and_takes_nothing_new(runtime: Runtime) -> None:
    (outcome,) = submit(runtime, [request([5], max_tokens=100, ignore_eos=True)])
    assert runtime.engine.drain(60)
    assert outcome.wait().finished.reason == "length"
    with pytest.raises(EngineStopped):
        runtime.engine.submit(request([5]), Outcome().deliver)


def test_stopping_ends_what_still_runs(runtime: Runtime) -> None:
    (outcome,) = submit(runtime, [request([5], max_tokens=400, ignore_eos=True)])
    runtime.engine.stop()
    assert outcome.wait().finished.reason in ("error", "length")


def test_a_cache_that_is_too_small_is_refused_with_the_least_that_works(
    checkpoint: Path,
) -> None:
    data_dir = checkpoint.parent / "data"
    with (
        pytest.raises(InvalidSetting, match=r"at least (\d+)") as refusal,
        served(checkpoint, data_dir, kv_cache_bytes=1000),
    ):
        pass
    least = int(re.search(r"at least (\d+)", refusal.value.message)[1])  # type: ignore[index]
    with served(checkpoint, data_dir, kv_cache_bytes=least) as runtime:
        (outcome,) = run(runtime, [request([5], max_tokens=4, ignore_eos=True)])
        assert outcome.finished.reason == "length"
