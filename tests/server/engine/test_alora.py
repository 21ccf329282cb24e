"""Activated LoRA (arXiv 2504.12397): PEFT's logits, the base's blocks before the invocation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet.engine.scheduler import Plan
from motet_adapters import Adapter
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import logits, make_adapter
from tests.support.serving import LogitTap, again, request, run, served, upload
from tests.support.tiny_models import make_checkpoint

INVOCATION = [251, 7, 251]
NUM_TOKENS = 10


def prompt_with(*starts: int, length: int = 45) -> list[int]:
    """Random tokens with the invocation sequence at these places."""
    draw = random.Random(length)
    prompt = [draw.randrange(9, 250) for _ in range(length)]
    for start in starts:
        prompt[start : start + len(INVOCATION)] = INVOCATION
    return prompt


# Chunks are of 16 tokens.
PROMPTS = {
    "first": prompt_with(0),
    "within_a_chunk": prompt_with(21),
    "at_a_chunk": prompt_with(32),
    "over_two_chunks": prompt_with(30),
    "last": prompt_with(42),
    "twice": prompt_with(5, 19),
    "overlapping": [*prompt_with(19), 7, 251, 9, 251, 7, 251, 7, 251],
    "nowhere": prompt_with(),
    "half_of_it": [*prompt_with(), *INVOCATION[:-1]],
}


@dataclass(frozen=True)
class House:
    runtime: Runtime
    plain: PreTrainedModel
    oracle: PeftModel
    adapter: Adapter
    lora: Adapter

    def expected(self, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
        """PEFT's logits [T, V], with the offset that its `generate` takes from the prompt."""
        starts = [
            start
            for start in range(len(prompt))
            if list(prompt[start : start + len(INVOCATION)]) == INVOCATION
        ]
        offset = len(ids) - starts[-1] if starts else None
        with torch.inference_mode():
            output: Tensor = self.oracle(
                input_ids=torch.tensor([list(ids)]), use_cache=False, alora_offsets=[offset]
            ).logits
        return output[0].float()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    tmp_path = tmp_path_factory.mktemp("alora")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data") as runtime:
        plain = dense_model(runtime.base)
        how = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj"]}
        activated = LoraConfig(**how, alora_invocation_tokens=INVOCATION, task_type="CAUSAL_LM")
        oracle = make_adapter(plain, tmp_path / "alora", 1, activated).oracle
        make_adapter(plain, tmp_path / "lora", 1, LoraConfig(**how, task_type="CAUSAL_LM"))
        adapter = upload(runtime, "tenant", "alora", tmp_path / "alora")
        assert adapter.invocation_tokens == tuple(INVOCATION)
        yield House(
            runtime, plain, oracle, adapter, upload(runtime, "tenant", "lora", tmp_path / "lora")
        )


def ask(house: House, name: str) -> Request:
    return request(PROMPTS[name], house.adapter, max_tokens=NUM_TOKENS, ignore_eos=True)


def check(house: House, item: Request, token_ids: list[int], tap: LogitTap) -> None:
    ids = [*item.prompt, *token_ids[:-1]]
    expected = house.expected(item.prompt, ids)[-NUM_TOKENS:]
    assert token_ids == expected.argmax(dim=1).tolist()
    assert (tap.of(item) - expected).abs().max() / expected.abs().max() < 1e-3


@pytest.mark.parametrize("name", PROMPTS)
def test_each_alone(house: House, name: str) -> None:
    """On blocks of its own, and on those that it finds."""
    item = ask(house, name)
    with LogitTap(house.runtime) as tap:
        for one in (item, again(item)):
            (outcome,) = run(house.runtime, [one])
            check(house, one, outcome.token_ids, tap)
            assert outcome.finished.adapter_digest == house.adapter.digest
        assert torch.equal(tap.of(item), tap.of(one))


@pytest.mark.parametrize("name", PROMPTS)
def test_it_says_what_pefts_generate_says(house: House, name: str) -> None:
    (outcome,) = run(house.runtime, [ask(house, name)])
    generated = house.oracle.generate(
        input_ids=torch.tensor([PROMPTS[name]]),
        max_new_tokens=NUM_TOKENS,
        min_new_tokens=NUM_TOKENS,
        do_sample=False,
    )
    said = generated[0, len(PROMPTS[name]) :].tolist()
    if 2 in outcome.token_ids:  # generate bans the end token before min_new_tokens, we do not
        end = outcome.token_ids.index(2)
        assert outcome.token_ids[:end] == said[:end]
    else:
        assert outcome.token_ids == said


def test_all_in_one_batch_with_lora_and_base(house: House) -> None:
    items = {name: ask(house, name) for name in PROMPTS}
    others = [
        request(prompt, adapter, max_tokens=NUM_TOKENS)
        for prompt in PROMPTS.values()
        for adapter in (None, house.lora)
    ]
    with LogitTap(house.runtime) as tap:
        outcomes = run(house.runtime, [*items.values(), *others])
    for item, outcome in zip(items.values(), outcomes, strict=False):
        check(house, item, outcome.token_ids, tap)
    assert house.runtime.engine.stats().num_isolation_violations == 0


def test_before_the_invocation_it_finds_what_the_base_computed(house: House) -> None:
    prompt = prompt_with(40, length=60)
    base = request(prompt, max_tokens=2)
    # the same tenant's: nobody finds what another tenant's requests computed
    base = Request(base.id, base.prompt, base.params, None, "tenant")
    run(house.runtime, [base])
    item = request(prompt, house.adapter, max_tokens=NUM_TOKENS, ignore_eos=True)
    with LogitTap(house.runtime) as tap:
        (outcome,) = run(house.runtime, [item])
    assert outcome.finished.cached_len == 32
    check(house, item, outcome.token_ids, tap)


def test_an_invocation_that_is_generated_activates_nothing(house: House) -> None:
    """As in PEFT's `generate`, which looks for it in the prompt alone."""
    prompt = [*prompt_with(), *INVOCATION[:-1]]
    bias = {INVOCATION[-1]: 100.0}
    item = request(prompt, house.adapter, max_tokens=4, ignore_eos=True, logit_bias=bias)
    plain = request(prompt, None, max_tokens=4, ignore_eos=True, logit_bias=bias)
    with LogitTap(house.runtime) as tap:
        outcome, _ = run(house.runtime, [item, plain])
    assert outcome.token_ids == [INVOCATION[-1]] * 4
    assert torch.equal(tap.of(item), tap.of(plain))


def test_a_row_on_the_adapter_before_its_invocation_ends(house: House) -> None:
    """The proof that each row runs on its own knows which of them are the base's."""
    engine = house.runtime.engine
    before = engine.stats().num_isolation_violations
    scheduler = engine._scheduler
    plan = scheduler.plan

    def sabotaged() -> Plan:
        made = plan()
        rows = tuple(
            replace(row, slot=row.sequence.slot.index) if row.sequence.slot else row
            for row in made.rows
        )
        return replace(made, rows=rows)

    scheduler.plan = sabotaged  # type: ignore[method-assign]
    try:
        (outcome,) = run(house.runtime, [request(prompt_with(21, length=50), house.adapter)])
    finally:
        scheduler.plan = plan  # type: ignore[method-assign]
    assert outcome.finished.reason == "error"
    assert engine.stats().num_isolation_violations == before + 1


def test_the_adapter_tells(house: House) -> None:
    """Equality above would prove nothing if the adapter did nothing."""
    prompt = PROMPTS["within_a_chunk"]
    adapted = house.expected(prompt, prompt)
    plain = logits(house.plain, prompt)
    assert torch.allclose(adapted[:21], plain[:21], atol=1e-4)
    assert (adapted[-1] - plain[-1]).abs().max() / plain.abs().max() > 1e-2
