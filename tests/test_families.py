"""Every family that is served computes what its own definition says, alone and in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet_adapters import Adapter
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.dense_model import dense_model
from tests.support.family_cases import INVOCATION, Truth, make, names
from tests.support.peft_adapters import logits, make_adapter
from tests.support.serving import LogitTap, again, request, run, served, upload
from tests.support.tiny_models import make_checkpoint

NUM_TOKENS = 6
TOLERANCE = 1e-3  # relative to the largest logit


@dataclass(frozen=True)
class Stage:
    runtime: Runtime
    plain: PreTrainedModel
    truths: dict[str, Truth]
    adapters: dict[str, Adapter]

    def ask(self, name: str | None) -> Request:
        """The same each time: a prompt of its own length with aLoRA's invocation in it."""
        draw = torch.Generator().manual_seed(sum((name or "base").encode()))
        length = int(torch.randint(6, 40, (), generator=draw))
        prompt = torch.randint(13, 250, (length,), generator=draw).tolist()
        prompt[3:5] = INVOCATION
        adapter = None if name is None else self.adapters[name]
        return request(prompt, adapter, max_tokens=NUM_TOKENS, ignore_eos=True)

    def expected(self, name: str | None, item: Request, token_ids: list[int]) -> Tensor:
        """[generated tokens, V]"""
        oracle = self.plain if name is None else self.truths[name].oracle
        everything = logits(oracle, [*item.prompt, *token_ids[:-1]])
        return everything[-NUM_TOKENS:]


@pytest.fixture(scope="module", params=["auto", "torch"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """With the native kernels, whole layers in one call; and in torch, module by module."""
    tmp_path = tmp_path_factory.mktemp("families")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", attention_bias=True)
    settings = {"max_num_seqs": 64, "max_batch_tokens": 128, "max_adapter_slots": 64}
    with served(checkpoint, tmp_path / "data", cpu_kernels=request.param, **settings) as runtime:
        plain = dense_model(runtime.base)
        truths = {name: make(name, runtime.base, plain, tmp_path / name) for name in names()}
        adapters = {
            name: upload(runtime, "tenant", name, truth.directory) for name, truth in truths.items()
        }
        yield Stage(runtime, plain, truths, adapters)


def check(
    stage: Stage, name: str | None, item: Request, token_ids: list[int], tap: LogitTap
) -> None:
    expected = stage.expected(name, item, token_ids)
    difference = (tap.of(item) - expected).abs().max() / expected.abs().max()
    assert difference <= TOLERANCE, f"{name}: {difference:.2e}"


@pytest.mark.parametrize("name", names())
def test_alone(stage: Stage, name: str) -> None:
    item = stage.ask(name)
    with LogitTap(stage.runtime) as tap:
        (outcome,) = run(stage.runtime, [item])
    check(stage, name, item, outcome.token_ids, tap)
    base = stage.expected(None, item, outcome.token_ids)
    change = (tap.of(item) - base).abs().max() / base.abs().max()
    assert change > 10 * TOLERANCE, f"{name} hardly changes anything"
    assert outcome.finished.adapter_digest == stage.adapters[name].digest


def test_all_in_one_batch_with_base_rows(stage: Stage) -> None:
    everyone: list[str | None] = [None, *names(), None]
    alone = {}
    for name in everyone:
        item = stage.ask(name)
        with LogitTap(stage.runtime) as tap:
            run(stage.runtime, [item])
        alone[name] = tap.of(item)
    items = [stage.ask(name) for name in everyone]
    with LogitTap(stage.runtime) as tap:
        outcomes = run(stage.runtime, items)
    assert max(len({row.slot for row in batch.rows}) for batch in tap.batches) > len(names()) // 2
    for name, item, outcome in zip(everyone, items, outcomes, strict=True):
        check(stage, name, item, outcome.token_ids, tap)
        assert torch.equal(tap.of(item), alone[name]), f"{name} felt its neighbours"


def test_the_same_request_twice_has_the_same_bits(stage: Stage) -> None:
    first = stage.ask("dora")
    second = again(first)
    with LogitTap(stage.runtime) as tap:
        run(stage.runtime, [first])
        run(stage.runtime, [second])
    assert torch.equal(tap.of(first), tap.of(second))


def test_adapters_on_experts(tmp_path: Path) -> None:
    """What PEFT trains on stacked experts, on a model that has some; beside a row of the base."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "qwen3_moe")
    with served(checkpoint, tmp_path / "data") as runtime:
        plain = dense_model(runtime.base)
        config = LoraConfig(
            r=4,
            target_modules=["q_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            task_type="CAUSAL_LM",
        )
        oracle = make_adapter(plain, tmp_path / "experts", 3, config)
        adapter = upload(runtime, "tenant", "experts", tmp_path / "experts")
        prompt = list(range(20, 45))
        items = [
            request(prompt, one, max_tokens=NUM_TOKENS, ignore_eos=True) for one in (adapter, None)
        ]
        with LogitTap(runtime) as tap:
            outcomes = run(runtime, items)
        expected = [oracle.oracle, plain]
        for item, outcome, model in zip(items, outcomes, expected, strict=True):
            wanted = logits(model, [*prompt, *outcome.token_ids[:-1]])[-NUM_TOKENS:]
            assert (tap.of(item) - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
        assert outcomes[0].token_ids != outcomes[1].token_ids
