"""What the project is for: a row runs on its own adapter and on nothing else, to the bit."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet.engine.scheduler import Row
from motet_adapters import Adapter, Image
from peft import LoraConfig

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import make_adapter
from tests.support.serving import (
    LogitTap,
    Outcome,
    again,
    request,
    run,
    served,
    submit,
    upload,
)
from tests.support.tiny_models import make_checkpoint

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = ({}, {"use_rslora": True}, {"use_dora": True})


@dataclass(frozen=True)
class House:
    """A running engine with published adapters of all kinds and several ranks."""

    runtime: Runtime
    adapters: list[Adapter]
    directories: list[Path]


def furnish(tmp_path: Path, runtime: Runtime, num_adapters: int) -> House:
    plain = dense_model(runtime.base)
    adapters, directories = [], []
    for index in range(num_adapters):
        config = LoraConfig(
            r=(1, 4, 8, 16)[index % 4],
            lora_alpha=8,
            target_modules=ALL if index % 2 else ["q_proj", "v_proj"],
            task_type="CAUSAL_LM",
            **KINDS[index % 3],
        )
        directory = tmp_path / f"adapter-{index}"
        make_adapter(plain, directory, index, config)
        adapters.append(upload(runtime, f"tenant-{index}", "mine", directory))
        directories.append(directory)
    return House(runtime, adapters, directories)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """bfloat16, room for four of six adapters, KV blocks for everybody."""
    tmp_path = tmp_path_factory.mktemp("isolation")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", dtype="bfloat16", max_adapter_slots=4) as runtime:
        yield furnish(tmp_path, runtime, num_adapters=6)


def prompts(count: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, 250) for _ in range(draw.randrange(1, 60))] for _ in range(count)]


def subject(house: House, index: int) -> Request:
    """A sampled request whose randomness is its own seed's."""
    return request(
        prompts(8, seed=1)[index],
        house.adapters[index] if index else None,
        max_tokens=24,
        temperature=1.0,
        top_p=0.95,
        seed=100 + index,
        ignore_eos=True,
    )


def long_answer(house: House, index: int) -> Request:
    """Up to ten prompt tokens and sixty generated ones: five blocks in the end, one at first."""
    return request(
        prompts(8, seed=1)[index][:10],
        house.adapters[index] if index else None,
        max_tokens=60,
        temperature=1.0,
        seed=100 + index,
        ignore_eos=True,
    )


def neighbours(house: House, count: int, seed: int) -> list[Request]:
    draw = random.Random(seed)
    return [
        request(
            prompt,
            draw.choice([None, *house.adapters]),
            max_tokens=draw.randrange(1, 30),
            temperature=draw.choice([0.0, 1.0]),
            seed=draw.randrange(1000),
        )
        for prompt in prompts(count, seed)
    ]


def bits(tap: LogitTap, item: Request) -> torch.Tensor:
    return tap.of(item)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_alone_and_among_31_others(house: House, index: int) -> None:
    """The same logits to the bit, and so the same tokens."""
    item = subject(house, index)
    with LogitTap(house.runtime) as tap:
        (alone,) = run(house.runtime, [item])
        for seed in range(3):
            others = neighbours(house, 31, seed)
            place = random.Random(seed).randrange(32)
            repeated = again(item)
            outcomes = run(house.runtime, [*others[:place], repeated, *others[place:]])
            assert outcomes[place].token_ids == alone.token_ids
            assert torch.equal(bits(tap, repeated), bits(tap, item))
    assert house.runtime.engine.stats().num_isolation_violations == 0


def test_after_eviction_and_reload_of_its_adapter(house: House) -> None:
    item = subject(house, 1)
    with LogitTap(house.runtime) as tap:
        (first,) = run(house.runtime, [item])
        evictions = house.runtime.arena.stats().num_evictions
        run(house.runtime, [request([5, 6], adapter) for adapter in house.adapters[2:]])
        assert house.runtime.arena.stats().num_evictions > evictions
        repeated = again(item)
        (second,) = run(house.runtime, [repeated])
        assert second.token_ids == first.token_ids
        assert torch.equal(bits(tap, repeated), bits(tap, item))


def test_after_preemption(tmp_path: Path) -> None:
    """With blocks for a third of them, rows are preempted and computed again to the same bits."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", dtype="bfloat16") as runtime:
        roomy = furnish(tmp_path, runtime, num_adapters=4)
        items = [long_answer(roomy, index) for index in range(4)]
        with LogitTap(runtime) as expected:
            before = run(runtime, items)
        assert runtime.engine.stats().num_preemptions == 0
    block_bytes = 2 * 2 * 2 * 16 * 16 * 2  # layers, k and v, heads, head size, positions, bf16
    with served(
        checkpoint,
        tmp_path / "data",
        dtype="bfloat16",
        kv_cache_bytes=(2 * 5 + 1) * block_bytes,
    ) as runtime:
        repeated = [again(item) for item in items]
        with LogitTap(runtime) as tap:
            after = run(runtime, repeated)
        assert runtime.engine.stats().num_preemptions > 0
        for old, new, item, copy in zip(before, after, items, repeated, strict=True):
            assert new.token_ids == old.token_ids
            assert torch.equal(bits(tap, copy), bits(expected, item))


def test_the_chunking_of_a_prompt_does_not_depend_on_the_neighbours(house: House) -> None:
    item = request(prompts(1, seed=9)[0] * 2, house.adapters[5], max_tokens=8, ignore_eos=True)
    with LogitTap(house.runtime) as tap:
        run(house.runtime, [item])
        crowd = [request(prompt, max_tokens=2) for prompt in prompts(12, seed=3)]
        repeated = again(item)
        run(house.runtime, [*crowd, repeated])
        assert torch.equal(bits(tap, repeated), bits(tap, item))


def test_200_adapters_over_a_device_that_holds_8(tmp_path: Path) -> None:
    """64 requests in random order, all right, while adapters come and go."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", max_adapter_slots=8) as runtime:
        small = furnish(tmp_path, runtime, num_adapters=12)
        published = list(small.adapters)
        for index in range(12, 200):  # names are cheap: many tenants share some uploads
            published.append(
                upload(runtime, f"tenant-{index}", "mine", small.directories[index % 12])
            )
        draw = random.Random(4)
        prompt = [9, 8, 7, 6, 5]
        expected = {}
        for adapter in small.adapters:
            (outcome,) = run(runtime, [request(prompt, adapter)])
            expected[adapter.digest] = outcome.token_ids
        assert len({tuple(tokens) for tokens in expected.values()}) > 6
        chosen = [draw.choice(published) for _ in range(64)]
        outcomes = run(runtime, [request(prompt, adapter) for adapter in chosen])
        for adapter, outcome in zip(chosen, outcomes, strict=True):
            assert outcome.token_ids == expected[adapter.digest]
        stats = runtime.engine.stats()
        assert stats.arena.num_evictions > 0
        assert stats.num_isolation_violations == 0


def test_rows_keep_decoding_while_an_adapter_loads(tmp_path: Path) -> None:
    """A trace, not a clock: the load is held until the running row has said twenty more tokens."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data") as runtime:
        small = furnish(tmp_path, runtime, num_adapters=2)
        go_on, order = threading.Event(), list[str]()
        load = runtime.arena._images

        def held(digest: str) -> Image:
            order.append("load begins")
            assert go_on.wait(60)
            order.append("load ends")
            return load(digest)

        runtime.arena._images = held
        running = Outcome()
        seen_after_load_began = 0

        def deliver(event: object) -> None:
            nonlocal seen_after_load_began
            if "load begins" in order and not go_on.is_set():
                seen_after_load_began += 1
                if seen_after_load_began == 20:
                    order.append("twenty tokens")
                    go_on.set()
            running.deliver(event)  # type: ignore[arg-type]

        runtime.engine.submit(request([3, 4], max_tokens=400, ignore_eos=True), deliver)
        (late,) = submit(runtime, [request([3, 4], small.adapters[0])])
        late.wait()
        running.wait()
        assert order[:3] == ["load begins", "twenty tokens", "load ends"]
        assert late.finished.reason == "length"


def test_a_slot_that_holds_another_adapter_ends_its_row_and_no_other(house: House) -> None:
    """The check of every step: a slot bound to another adapter behind the engine's back."""
    engine = house.runtime.engine
    bindings, victim = engine._bindings, house.adapters[1].digest
    update = bindings.update

    def sabotaged(rows: Sequence[Row]) -> None:
        update(rows)
        for row in rows:
            slot = row.sequence.slot
            if slot is not None and slot.digest == victim:
                bindings._bound[slot.index] = (slot.generation, house.adapters[2].digest)

    before = engine.stats().num_isolation_violations
    bindings.update = sabotaged  # type: ignore[method-assign]
    try:
        base, bad, other = run(
            house.runtime,
            [request([3, 4, 5], house.adapters[index] if index else None) for index in (0, 1, 3)],
        )
    finally:
        bindings.update = update  # type: ignore[method-assign]
    assert bad.finished.reason == "error"
    assert bad.token_ids == []
    assert [base.finished.reason, other.finished.reason] == ["length", "length"]
    assert engine.stats().num_isolation_violations == before + 1
