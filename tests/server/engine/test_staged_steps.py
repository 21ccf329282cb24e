"""Steps whose small tensors share a buffer and whose forward is recorded and run again.

A whole engine on the GPU's kernels, through Triton's interpreter, with a recording in the place of
a CUDA graph (tests/support/recorded_graph.py): the logits must be those of steps that run as they
are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from motet.engine import runtime as runtime_module
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet.engine.step_buffers import StepBuffers
from motet.engine.step_graphs import StepGraphs
from motet_adapters import Adapter
from motet_kernels import KernelReport, Selection
from motet_kernels.gpu.gpu_ops import GpuOps
from peft import LoraConfig

from tests.support.dense_model import dense_model
from tests.support.interpreted import interpreted
from tests.support.ordered_dot import order_dots
from tests.support.peft_adapters import make_adapter
from tests.support.recorded_graph import Recorder
from tests.support.serving import LogitTap, again, request, run, served, upload
from tests.support.tiny_models import make_checkpoint

pytestmark = [pytest.mark.slow, interpreted]

NUM_TOKENS = 5
PROMPTS = ([1, 5, 9], [1, 7], [1, 11, 4, 3, 2])


class SmallSteps(GpuOps):
    """Without padding to 16 rows, which the interpreter takes its time for."""

    def row_multiple(self, dtype: torch.dtype) -> int:
        return 1


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    order_dots(monkeypatch)
    selection = Selection(SmallSteps(), KernelReport("gpu"))
    monkeypatch.setattr(runtime_module, "select_kernels", lambda *_, **__: selection)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data") as running:
        yield running


def adapter(runtime: Runtime, tmp_path: Path, name: str, rank: int) -> Adapter:
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "down_proj"])
    made = make_adapter(dense_model(runtime.base), tmp_path / name, len(name), config)
    return upload(runtime, "tenant", name, made.directory)


def greedy(prompt: list[int], on: Adapter | None) -> Request:
    return request(prompt, on, max_tokens=NUM_TOKENS, ignore_eos=True)


def stage(runtime: Runtime, capture: Recorder) -> StepGraphs:
    """Let the engine's steps be staged and recorded from now on."""
    model = runtime.engine._model
    num_slots = next(iter(model.tables.values())).num_slots
    model.layout = replace(
        model.layout, buffers=StepBuffers(torch.device("cpu")), buckets=(4,), num_slots=num_slots
    )
    model.graphs = StepGraphs(capture)
    return model.graphs


def test_replayed_steps_have_the_bits_of_steps_that_run(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.engine._model
    plain_layout = model.layout
    graphs = stage(runtime, Recorder(monkeypatch))
    first = adapter(runtime, tmp_path, "first", 3)
    requests = [greedy(PROMPTS[0], first), greedy(PROMPTS[1], None)]
    with LogitTap(runtime) as staged:
        outcomes = run(runtime, requests)
        # an adapter that comes to a graph captured without it
        second = adapter(runtime, tmp_path, "second", 5)
        requests.append(greedy(PROMPTS[2], second))
        outcomes += run(runtime, requests[2:])
    assert graphs.num_captures == 1
    assert graphs.num_replays >= 2 * (NUM_TOKENS - 2)

    model.layout, model.graphs = plain_layout, None
    repeated = [again(item) for item in requests]
    with LogitTap(runtime) as plain:
        expected = run(runtime, repeated)
    for outcome, same in zip(outcomes, expected, strict=True):
        assert outcome.finished.reason == "length"
        assert outcome.token_ids == same.token_ids
    for item, original in zip(repeated, requests, strict=True):
        assert torch.equal(plain.of(item), staged.of(original))
    assert not torch.equal(plain.of(repeated[0])[0], plain.of(repeated[2])[0])
