"""Every row gets what PEFT computes on the same NF4 weights, alone and in one mixed batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet_adapters import Adapter
from peft import LoraConfig
from transformers import PreTrainedModel

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import PeftAdapter, greedy, logits, make_adapter
from tests.support.serving import LogitTap, Outcome, again, request, run, served, upload
from tests.support.tiny_models import make_checkpoint

NUM_TOKENS = 64
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

CASES: dict[str, dict[str, Any]] = {
    "lora_r1": {"r": 1, "lora_alpha": 2, "target_modules": ALL},
    "lora_r4": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "lora_r8_all_linear": {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
    "rslora_r16": {"r": 16, "lora_alpha": 16, "use_rslora": True, "target_modules": ALL},
    "rslora_r64": {"r": 64, "lora_alpha": 8, "use_rslora": True, "target_modules": ATTENTION},
    "dora_r4": {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": ALL},
    "dora_r64": {"r": 64, "lora_alpha": 64, "use_dora": True, "target_modules": ["down_proj"]},
    "dora_rslora_r8": {
        "r": 8,
        "lora_alpha": 8,
        "use_dora": True,
        "use_rslora": True,
        "target_modules": ["k_proj", "up_proj"],
    },
    "patterns": {
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 16, "layers.1.mlp.down_proj": 3},
        "alpha_pattern": {"v_proj": 4, "layers.0.self_attn.o_proj": 32},
    },
    "one_layer": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "gate_proj"],
        "layers_to_transform": [1],
    },
}


@dataclass(frozen=True)
class Stage:
    """One base, all cases of adapters on it, as served and as PEFT has them."""

    runtime: Runtime
    plain: PreTrainedModel
    oracles: dict[str, PeftAdapter]
    adapters: dict[str, Adapter]

    def requests(self) -> dict[str, Request]:
        """One request a case and three on the base, with prompts of different lengths."""
        generator = torch.Generator().manual_seed(7)
        names = [None, *self.adapters, None, None]
        made: dict[str, Request] = {}
        for index, name in enumerate(names):
            length = int(torch.randint(1, 40, (), generator=generator))
            prompt = torch.randint(3, 250, (length,), generator=generator).tolist()
            adapter = self.adapters[name] if name else None
            made[name or f"base_{index}"] = request(
                prompt, adapter, max_tokens=NUM_TOKENS, ignore_eos=True
            )
        return made


def make_stage(tmp_path: Path, runtime: Runtime) -> Stage:
    plain = dense_model(runtime.base)
    oracles, adapters = {}, {}
    for seed, (name, case) in enumerate(CASES.items()):
        config = LoraConfig(**case, task_type="CAUSAL_LM", lora_dropout=0.0)
        oracles[name] = make_adapter(plain, tmp_path / name, seed, config)
        adapters[name] = upload(runtime, "tenant", name.replace("_", "-"), tmp_path / name)
    return Stage(runtime, plain, oracles, adapters)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tmp_path = tmp_path_factory.mktemp("parity")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama_odd")
    with served(checkpoint, tmp_path / "data") as runtime:
        yield make_stage(tmp_path, runtime)


def check(stage: Stage, name: str, item: Request, outcome: Outcome, tap: LogitTap) -> None:
    """64 greedy tokens equal; every logit within 1e-3 of the largest."""
    oracle = stage.oracles[name].oracle if name in stage.oracles else stage.plain
    assert outcome.token_ids == greedy(oracle, item.prompt, NUM_TOKENS)
    expected = logits(oracle, [*item.prompt, *outcome.token_ids[:-1]])[len(item.prompt) - 1 :]
    difference = (tap.of(item) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-3
    adapter = stage.adapters.get(name)
    assert outcome.finished.adapter_digest == (adapter.digest if adapter else None)


@pytest.mark.parametrize("name", CASES)
def test_each_alone(stage: Stage, name: str) -> None:
    item = stage.requests()[name]
    with LogitTap(stage.runtime) as tap:
        (outcome,) = run(stage.runtime, [item])
    check(stage, name, item, outcome, tap)


def test_all_in_one_batch_with_base_rows(stage: Stage) -> None:
    before = stage.runtime.engine.stats()
    requests = stage.requests()
    run(stage.runtime, requests.values())  # brings every adapter to the device
    requests = {name: again(item) for name, item in requests.items()}
    with LogitTap(stage.runtime) as tap:
        outcomes = run(stage.runtime, requests.values())
    for (name, item), outcome in zip(requests.items(), outcomes, strict=True):
        check(stage, name, item, outcome, tap)
    adapters_and_base = len(CASES) + 1
    assert max(len({row.slot for row in batch.rows}) for batch in tap.batches) == adapters_and_base
    after = stage.runtime.engine.stats()
    assert after.num_mixed_steps > before.num_mixed_steps
    assert after.num_isolation_violations == 0


def test_the_adapters_differ_from_the_base_and_from_each_other(stage: Stage) -> None:
    """Equality above would prove nothing if the adapters did nothing."""
    prompt = list(range(3, 23))
    every = [logits(stage.plain, prompt), *(o.logits(prompt) for o in stage.oracles.values())]
    largest = every[0].abs().max()
    for index, one in enumerate(every):
        for other in every[:index]:
            assert (one - other).abs().max() / largest > 1e-2


def test_bfloat16_stays_within_its_rounding(tmp_path: Path) -> None:
    """Against PEFT in float32, on transformers' usual initialisation: the other tests' larger one
    makes layers amplify what bfloat16 rounds away, in PEFT's own bfloat16 forward as well."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", initializer_range=0.02)
    with served(checkpoint, tmp_path / "data", dtype="bfloat16") as runtime:
        stage = make_stage(tmp_path, runtime)
        requests = stage.requests()
        with LogitTap(runtime) as tap:
            outcomes = run(runtime, requests.values())
        for (name, item), outcome in zip(requests.items(), outcomes, strict=True):
            oracle = stage.oracles[name].oracle if name in stage.oracles else stage.plain
            expected = logits(oracle, [*item.prompt, *outcome.token_ids[:-1]])
            expected = expected[len(item.prompt) - 1 :]
            difference = (tap.of(item) - expected).abs().max() / expected.abs().max()
            assert difference < 2e-2
