"""Virtual tokens: PEFT's own logits, computed once, shared, and the same bits in any company."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine.attention import LayerAttention
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet.engine.survey import LayerShape
from motet.engine.virtual_tokens import require_fit
from motet.errors import RequestRefused
from motet_adapters import Adapter, AdapterLoadFailed
from motet_adapters.families import PartSpec, SitePlan
from motet_adapters.image import Image, Layout
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from peft.tuners import CartridgeConfig
from torch import nn
from transformers import PreTrainedModel

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import greedy, logits, make_adapter
from tests.support.serving import LogitTap, Outcome, again, request, run, served, upload
from tests.support.tiny_models import make_checkpoint

NUM_TOKENS = 12
BLOCK_SIZE = 16
CHUNK_LEN = 16  # of `served`

# Less than a block, one, more than one; chunks end within, at the end and behind.
CASES: dict[str, PeftConfig] = {
    "prompt_5": PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "prompt_16": PromptTuningConfig(num_virtual_tokens=16, task_type="CAUSAL_LM"),
    "prompt_37": PromptTuningConfig(num_virtual_tokens=37, task_type="CAUSAL_LM"),
    "p_tuning_9": PromptEncoderConfig(
        num_virtual_tokens=9, encoder_hidden_size=24, task_type="CAUSAL_LM"
    ),
    "prefix_7": PrefixTuningConfig(num_virtual_tokens=7, task_type="CAUSAL_LM"),
    "prefix_32": PrefixTuningConfig(num_virtual_tokens=32, task_type="CAUSAL_LM"),
    "projected_20": PrefixTuningConfig(
        num_virtual_tokens=20,
        prefix_projection=True,
        encoder_hidden_size=24,
        task_type="CAUSAL_LM",
    ),
    "cartridge_6": CartridgeConfig(num_virtual_tokens=6, task_type="CAUSAL_LM"),
}


@dataclass(frozen=True)
class House:
    runtime: Runtime
    plain: PreTrainedModel
    oracles: dict[str, nn.Module]
    adapters: dict[str, Adapter]

    def expected(self, name: str) -> nn.Module:
        return self.oracles.get(name, self.plain)


def make_prompt_adapter(
    plain: PreTrainedModel, directory: Path, seed: int, config: PeftConfig
) -> PeftModel:
    """Written by PEFT with random values, and read by PEFT again."""
    model = get_peft_model(copy.deepcopy(plain), config)
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(str(directory))
    return PeftModel.from_pretrained(copy.deepcopy(plain), str(directory)).eval()


def furnish(tmp_path: Path, runtime: Runtime, cases: dict[str, PeftConfig]) -> House:
    plain = dense_model(runtime.base)
    oracles: dict[str, nn.Module] = {}
    adapters = {}
    for seed, (name, config) in enumerate(cases.items()):
        oracles[name] = make_prompt_adapter(plain, tmp_path / name, seed, copy.deepcopy(config))
        adapters[name] = upload(runtime, "tenant", name.replace("_", "-"), tmp_path / name)
    for name, use_dora in (("lora", False), ("dora", True)):
        lora = LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], use_dora=use_dora, task_type="CAUSAL_LM"
        )
        oracles[name] = make_adapter(plain, tmp_path / name, 90, lora).oracle
        adapters[name] = upload(runtime, "tenant", name, tmp_path / name)
    return House(runtime, plain, oracles, adapters)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    tmp_path = tmp_path_factory.mktemp("virtual")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data") as runtime:
        yield furnish(tmp_path, runtime, CASES)


def ask(house: House, name: str, prompt: Sequence[int], **how: Any) -> Request:
    how = {"max_tokens": NUM_TOKENS, "ignore_eos": True} | how
    return request(prompt, house.adapters.get(name), **how)


def prompt_of(length: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed * 1000 + length)
    return [draw.randrange(3, 250) for _ in range(length)]


def check(house: House, name: str, item: Request, outcome: Outcome, tap: LogitTap) -> None:
    oracle = house.expected(name)
    assert outcome.token_ids == greedy(oracle, item.prompt, len(outcome.token_ids))
    expected = logits(oracle, [*item.prompt, *outcome.token_ids[:-1]])
    expected = expected[-len(outcome.token_ids) :]
    difference = (tap.of(item) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-3
    assert outcome.finished.prompt_len == len(item.prompt)
    assert outcome.finished.adapter_digest == (
        house.adapters[name].digest if name in house.adapters else None
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("length", [1, 30])
def test_each_alone(house: House, name: str, length: int) -> None:
    """Before its virtual tokens are in the cache, and after."""
    item = ask(house, name, prompt_of(length))
    with LogitTap(house.runtime) as tap:
        for one in (item, again(item)):
            (outcome,) = run(house.runtime, [one])
            check(house, name, one, outcome, tap)
        assert torch.equal(tap.of(item), tap.of(one))


def test_all_in_one_batch_with_lora_dora_and_base(house: House) -> None:
    names = ["base", *house.adapters, "base"]
    for _ in range(2):
        items = [ask(house, name, prompt_of(8 + i), max_tokens=24) for i, name in enumerate(names)]
        with LogitTap(house.runtime) as tap:
            outcomes = run(house.runtime, items)
        for name, item, outcome in zip(names, items, outcomes, strict=True):
            check(house, name, item, outcome, tap)
    assert max(len({row.slot for row in batch.rows}) for batch in tap.batches) == len(names) - 1
    assert house.runtime.engine.stats().num_isolation_violations == 0


def test_the_virtual_tokens_tell(house: House) -> None:
    """Equality above would prove nothing if the adapters did nothing."""
    prompt = prompt_of(10)
    every = [logits(model, prompt)[-1] for model in (house.plain, *house.oracles.values())]
    for index, one in enumerate(every):
        for other in every[:index]:
            assert (one - other).abs().max() / every[0].abs().max() > 1e-2


def test_they_are_computed_once_for_many_at_once(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", prefix_cache="off") as runtime:
        house = furnish(
            tmp_path, runtime, {name: CASES[name] for name in ("prompt_37", "prefix_7")}
        )
        items = [ask(house, "prompt_37", prompt_of(6, seed)) for seed in range(8)]
        items += [ask(house, "prefix_7", prompt_of(6, seed)) for seed in range(8)]
        run(runtime, items)
        run(runtime, [again(item) for item in items])
        stats = runtime.engine.stats()
        assert stats.num_virtual_tokens == 37
        assert stats.num_prompt_tokens == 2 * 16 * 6
        assert stats.num_cached_tokens == 0
        # Two blocks and a copy of the third; a copy of the only one.
        assert stats.num_cached_blocks == 3 + 1
        assert stats.num_free_blocks == stats.num_blocks


def test_the_bits_do_not_depend_on_the_company_or_on_who_computed_them(tmp_path: Path) -> None:
    """Alone, among others, after an eviction from the cache, and with a slot for one adapter."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", dtype="bfloat16", max_adapter_slots=3) as runtime:
        cases = {name: CASES[name] for name in ("prompt_5", "prompt_37", "prefix_7")}
        house = furnish(tmp_path, runtime, cases)
        items = {
            (name, length): ask(house, name, prompt_of(length))
            for name in cases
            for length in (3, 40)
        }
        with LogitTap(runtime) as tap:
            for item in items.values():
                run(runtime, [item])
            for seed in range(4):
                draw = random.Random(seed)
                copies = {key: again(item) for key, item in items.items()}
                crowd = [
                    ask(house, draw.choice(["base", *house.adapters]), prompt_of(20, seed + i))
                    for i in range(10)
                ]
                mixed = [*copies.values(), *crowd]
                draw.shuffle(mixed)
                run(runtime, mixed)
                for key, item in items.items():
                    assert torch.equal(tap.of(copies[key]), tap.of(item)), key
        assert runtime.arena.stats().num_evictions > 0


def test_they_survive_preemption(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", dtype="bfloat16") as runtime:
        cases = {name: CASES[name] for name in ("prompt_5", "prefix_7", "prompt_37")}
        house = furnish(tmp_path, runtime, cases)
        items = [
            ask(house, name, prompt_of(9, i), max_tokens=50)
            for i, name in enumerate([*cases, *cases])
        ]
        with LogitTap(runtime) as expected:
            run(runtime, items)
        assert runtime.engine.stats().num_preemptions == 0
    block_bytes = 2 * 2 * 2 * 16 * BLOCK_SIZE * 2  # layers, k and v, heads, head size, ..., bf16
    with served(
        checkpoint, tmp_path / "data", dtype="bfloat16", kv_cache_bytes=14 * block_bytes
    ) as runtime:
        copies = [again(item) for item in items]
        with LogitTap(runtime) as tap:
            run(runtime, copies)
        assert runtime.engine.stats().num_preemptions > 0
        for item, repeated in zip(items, copies, strict=True):
            assert torch.equal(tap.of(repeated), expected.of(item))
        runtime.engine.stop()
        stats = runtime.engine.stats()
        assert stats.num_free_blocks == stats.num_blocks


def test_a_deleted_adapters_virtual_tokens_leave_the_cache(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data") as runtime:
        house = furnish(tmp_path, runtime, {"prompt_37": CASES["prompt_37"]})
        run(runtime, [ask(house, "prompt_37", prompt_of(40))])
        assert runtime.engine.stats().num_cached_blocks > 0
        runtime.store.delete("tenant", "prompt-37")
        runtime.engine.stop()  # its last step comes after the deletion woke it
        runtime.engine.step()
        assert runtime.engine.stats().num_cached_blocks == 0


@pytest.mark.parametrize(
    ("num_heads", "size", "fits"), [(2, 16, True), (1, 16, False), (2, 8, False)]
)
def test_keys_that_fit_no_layer_fail_their_own_load(num_heads: int, size: int, fits: bool) -> None:
    """Whatever the base's configuration says: within a step it would end everybody's request."""
    part = PartSpec((3, num_heads, size))
    plan = SitePlan("prefix", {}, {"keys.0": part, "values.0": part}, lambda _read: {})
    layout = Layout.of([plan], torch.float32)
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    image = Image("digest", torch.float32, buffer, layout.entries)
    layers = {0: LayerShape(2, 16, 16, LayerAttention(0, 1.0, None, None))}
    if fits:
        require_fit(image, layers)
        return
    with pytest.raises(AdapterLoadFailed, match="do not fit layer 0"):
        require_fit(image, layers)


def test_only_real_tokens_count_and_virtual_ones_take_positions(house: House) -> None:
    engine = house.runtime.engine
    plain, adapter = engine.max_len(None), house.adapters["prompt_37"]
    assert engine.max_len(adapter) == plain - 37  # the model's own 512 positions
    with pytest.raises(RequestRefused, match="limit with this adapter is"):
        engine.submit(ask(house, "prompt_37", [5] * (plain - 40)), Outcome().deliver)
    (outcome,) = run(house.runtime, [ask(house, "prompt_37", [5] * (plain - 37 - NUM_TOKENS))])
    assert outcome.finished.completion_len == NUM_TOKENS


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "granite", "qwen3", "mistral"])
def test_on_other_architectures(tmp_path: Path, name: str) -> None:
    """Scaled embeddings, norms on keys, sliding windows shorter than the prefix."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", name)
    with served(checkpoint, tmp_path / "data") as runtime:
        house = furnish(tmp_path, runtime, {key: CASES[key] for key in ("prompt_37", "prefix_7")})
        for case in ("prompt_37", "prefix_7"):
            with LogitTap(runtime) as tap:
                item = ask(house, case, prompt_of(11))
                (outcome,) = run(runtime, [item])
            check(house, case, item, outcome, tap)
