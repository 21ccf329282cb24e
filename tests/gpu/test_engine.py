"""The engine on a CUDA device against PEFT, and a request alone against the same in a batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.conftest import DEVICE
from tests.server.engine.test_parity import CASES, Stage, make_stage
from tests.support.peft_adapters import logits
from tests.support.serving import LogitTap, again, request, run, served
from tests.support.tiny_models import make_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tmp_path: Path = tmp_path_factory.mktemp("cuda")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", initializer_range=0.02)
    with served(checkpoint, tmp_path / "data", device="cuda", dtype="bfloat16") as runtime:
        yield make_stage(tmp_path, runtime)


def test_mixed_batch_stays_within_bfloat16_of_peft(stage: Stage) -> None:
    requests = stage.requests()
    with LogitTap(stage.runtime) as tap:
        outcomes = run(stage.runtime, requests.values())
    for (name, item), outcome in zip(requests.items(), outcomes, strict=True):
        oracle = stage.oracles[name].oracle if name in stage.oracles else stage.plain
        expected = logits(oracle, [*item.prompt, *outcome.token_ids[:-1]])
        expected = expected[len(item.prompt) - 1 :]
        difference = (tap.of(item).cpu() - expected).abs().max() / expected.abs().max()
        assert difference < 2e-2
    assert stage.runtime.engine.stats().num_isolation_violations == 0


@pytest.mark.parametrize("name", [*CASES, "base_0"])
def test_request_has_the_same_logits_alone_and_in_a_batch(stage: Stage, name: str) -> None:
    requests = stage.requests()
    with LogitTap(stage.runtime) as tap:
        together = dict(zip(requests, run(stage.runtime, requests.values()), strict=True))
        in_batch = tap.of(requests[name]).cpu()
    item = again(requests[name])
    with LogitTap(stage.runtime) as tap:
        (alone,) = run(stage.runtime, [item])
        by_itself = tap.of(item).cpu()
    assert alone.token_ids == together[name].token_ids
    assert torch.equal(in_batch, by_itself)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe", "gemma2", "phi3"])
def test_base_request_has_the_same_logits_alone_and_in_a_batch(
    architecture: str, tmp_path: Path
) -> None:
    """Mixtures, whose routers and experts see other tokens in a batch; windows and soft caps."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    prompts = [[1, 5 + n, *range(9, 9 + 3 * n)] for n in range(6)]
    items = [request(prompt, None, max_tokens=20, ignore_eos=True) for prompt in prompts]
    with served(checkpoint, tmp_path / "data", device=DEVICE.type, dtype="bfloat16") as runtime:
        with LogitTap(runtime) as together:
            run(runtime, items)
        for item in items:
            alone = again(item)
            with LogitTap(runtime) as tap:
                run(runtime, [alone])
            assert torch.equal(tap.of(alone), together.of(item))
