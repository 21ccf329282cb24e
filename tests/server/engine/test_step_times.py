"""Steps taken by the caller's thread, and what the clock around their parts says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet.engine.load import Load
from motet.engine.request import Event, Token
from motet.engine.runtime import Runtime, open_runtime
from motet.engine.stage_clock import StageClock
from motet.engine.step_times import run_requests
from motet.engine.timed_ops import timed
from motet.errors import EngineStopped, MotetError
from motet.settings import Settings
from motet_kernels import LayerOps, ReferenceOps, TimedLayerOps, select_ops
from motet_kernels.cpu.cpu_ops import CpuOps

from tests.support.serving import request, run, served
from tests.support.tiny_models import make_checkpoint

LOAD = Load(num_requests=3, num_adapters=0, rank=1, prompt_len=20, num_tokens=4, temperature=0.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint", "llama")


@pytest.fixture
def clock() -> StageClock:
    return StageClock()


@pytest.fixture
def runtime(checkpoint: Path, clock: StageClock, tmp_path: Path) -> Iterator[Runtime]:
    settings = Settings(
        base=str(checkpoint),
        data_dir=checkpoint.parent / "data",
        kv_cache_bytes=1 << 20,
        threads=1,
        dtype="float32",
        chunk_len=16,
        max_num_seqs=8,
        max_batch_tokens=64,
    )
    runtime = open_runtime(
        settings, lambda _doing, _done: None, store_dir=tmp_path / "store", clock=clock
    )
    yield runtime
    runtime.close()


def test_stages_add_up_to_no_more_than_their_steps(runtime: Runtime, clock: StageClock) -> None:
    with runtime.engine.on_this_thread():
        times = run_requests(
            runtime.engine, clock, LOAD.requests((), runtime.engine.vocab_size, "test")
        )
    for kind in (times.prompt, times.decode):
        assert kind.num_steps > 0
        assert 0 < sum(kind.stages.values()) < kind.seconds
        assert {"attention", "linears", "lm_head", "sampling"} <= set(kind.stages)
    both = (times.prompt, times.decode)
    assert sum(kind.num_prompt_tokens for kind in both) == 3 * 20
    assert sum(kind.num_generated_tokens for kind in both) == 3 * 4


def test_the_clock_changes_no_token(checkpoint: Path, runtime: Runtime, tmp_path: Path) -> None:
    asked = request(range(5, 25), max_tokens=6, temperature=0.8, seed=3, ignore_eos=True)
    events: list[Event] = []
    with runtime.engine.on_this_thread():
        runtime.engine.submit(asked, events.append)
        while runtime.engine.step():
            pass
    with served(checkpoint, tmp_path / "data") as plain:
        (expected,) = run(plain, [asked])
    assert [event.token_id for event in events if isinstance(event, Token)] == expected.token_ids


def test_an_engine_that_nobody_drives_accepts_nothing(runtime: Runtime) -> None:
    with runtime.engine.on_this_thread():
        assert runtime.engine.healthy
    assert not runtime.engine.healthy
    with pytest.raises(EngineStopped):
        runtime.engine.submit(request([1, 2]), lambda _event: None)


def test_a_request_that_ends_early_is_no_measurement(runtime: Runtime, clock: StageClock) -> None:
    asked = request([5, 6], max_tokens=4, stop_token_ids=tuple(range(runtime.engine.vocab_size)))
    with runtime.engine.on_this_thread(), pytest.raises(MotetError, match="ended in stop"):
        run_requests(runtime.engine, clock, [asked])


def test_a_clock_that_was_read_begins_anew(clock: StageClock) -> None:
    clock.add("linears", 2.0)
    clock.add("linears", 1.0)
    with clock.stage("sampling"):
        pass
    taken = clock.take()
    assert taken["linears"] == 3.0
    assert taken["sampling"] >= 0
    assert clock.take() == {}


def test_timed_ops_run_whole_layers_where_those_can_be_timed(clock: StageClock) -> None:
    native = select_ops(torch.device("cpu"))
    assert isinstance(timed(native, clock), LayerOps) == isinstance(native, TimedLayerOps)
    assert not isinstance(timed(CpuOps(), clock), LayerOps)
    assert not isinstance(timed(ReferenceOps(), clock), LayerOps)  # it cannot say how long
    assert timed(native, clock).name == native.name
