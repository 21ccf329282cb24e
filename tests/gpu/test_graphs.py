"""CUDA graphs against steps that run as they are, bit for bit, with adapters that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet.engine.runtime import Runtime
from motet_adapters import Adapter
from peft import LoraConfig

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import make_adapter
from tests.support.serving import LogitTap, again, request, run, served, upload
from tests.support.tiny_models import make_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

NUM_TOKENS = 24
PROMPT = [1, 5, 9, 4]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    # two slots, so that a third adapter takes the place of another
    options = {"device": "cuda", "dtype": "bfloat16", "max_adapter_slots": 2}
    with served(checkpoint, tmp_path / "data", **options) as running:
        yield running


def adapters(runtime: Runtime, tmp_path: Path) -> list[Adapter]:
    made = []
    for number, rank in enumerate((3, 8, 16)):
        config = LoraConfig(r=rank, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
        directory = tmp_path / f"adapter{number}"
        make_adapter(dense_model(runtime.base), directory, number, config)
        made.append(upload(runtime, "tenant", f"adapter{number}", directory))
    return made


def test_graphs_have_the_bits_of_eager_steps_and_adapters_come_without_recapture(
    runtime: Runtime, tmp_path: Path
) -> None:
    model = runtime.engine._model
    graphs = model.graphs
    assert graphs is not None, "the engine runs graphs on CUDA"
    assert graphs.num_captures == 1, "the probe's single tokens, on the base"
    requests = []
    with LogitTap(runtime) as replayed:
        for adapter in adapters(runtime, tmp_path):
            pair = [
                request([*PROMPT, len(requests)], on, max_tokens=NUM_TOKENS, ignore_eos=True)
                for on in (adapter, None)
            ]
            run(runtime, pair)
            requests += pair
            assert graphs.num_captures >= 2
    # The first adapter makes all launches other ones. Base rows alone may come again while the
    # next adapter is on its way.
    assert graphs.num_captures <= 3, "base rows alone, and rows with adapters: whichever adapters"
    assert graphs.num_replays > len(requests) * NUM_TOKENS // 4

    model.graphs = None
    repeated = [again(item) for item in requests]
    with LogitTap(runtime) as eager:
        run(runtime, repeated)
    for item, original in zip(repeated, requests, strict=True):
        assert torch.equal(eager.of(item), replayed.of(original))


def test_a_larger_rank_than_any_captured_is_captured_again(
    runtime: Runtime, tmp_path: Path
) -> None:
    graphs = runtime.engine._model.graphs
    assert graphs is not None
    captures = graphs.num_captures
    for rank in (4, 40):
        config = LoraConfig(r=rank, lora_alpha=16, target_modules=["q_proj"])
        directory = tmp_path / f"rank{rank}"
        oracle = make_adapter(dense_model(runtime.base), directory, rank, config)
        adapter = upload(runtime, "tenant", f"rank{rank}", directory)
        (outcome,) = run(
            runtime, [request(PROMPT, adapter, max_tokens=NUM_TOKENS, ignore_eos=True)]
        )
        expected = oracle.logits([*PROMPT, *outcome.token_ids[:-1]])[len(PROMPT) - 1 :]
        chosen = expected.gather(1, torch.tensor(outcome.token_ids)[:, None])[:, 0]
        # in bfloat16 the oracle's own best may be another by a hair
        assert (expected.max(dim=1).values - chosen).max() < 0.05 * expected.abs().max()
    assert graphs.num_captures == captures + 2
