"""Prompts that begin alike on a real model: computed once, and to the same bits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet.engine.batch import Batch
from motet.engine.request import Request
from motet.engine.runtime import Runtime
from motet_adapters import Adapter
from peft import LoraConfig
from torch import Tensor

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import make_adapter
from tests.support.serving import LogitTap, again, request, run, served, upload
from tests.support.tiny_models import make_checkpoint

LONG = [random.Random(5).randrange(3, 250) for _ in range(70)]
NUM_SHARED = 64  # of them, the chunks of 16 that are whole


def prompts(count: int) -> list[list[int]]:
    """That begin alike for 70 tokens, or 50, or not at all, and end each in its own way."""
    draw = random.Random(3)
    made = []
    for index in range(count):
        tail = [draw.randrange(3, 250) for _ in range(draw.randint(0, 25))]
        made.append([*LONG[: (70, 50, 0)[index % 3]], 3 + index, *tail])
    return made


def adapters_of(directory: Path, runtime: Runtime, *, tenant: str = "tenant") -> list[Adapter]:
    plain = dense_model(runtime.base)
    made = []
    for index, use_dora in enumerate((False, True)):
        config = LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], use_dora=use_dora, task_type="CAUSAL_LM"
        )
        make_adapter(plain, directory / f"adapter-{index}", index, config)
        made.append(upload(runtime, tenant, f"adapter-{index}", directory / f"adapter-{index}"))
    return made


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with served(checkpoint, tmp_path / "data", dtype="bfloat16") as runtime:
        yield runtime
        runtime.engine.stop()
        stats = runtime.engine.stats()
        assert stats.num_free_blocks == stats.num_blocks


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_found_or_computed_the_bits_are_the_same(tmp_path: Path, name: str, kernels: str) -> None:
    """By the native kernels, whose rows know no shapes, and by torch's, whose rows do."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", name)
    how = {"dtype": "bfloat16", "cpu_kernels": kernels}
    with served(checkpoint, tmp_path / "data", prefix_cache="off", **how) as runtime:
        adapters = adapters_of(tmp_path, runtime)
        items = [
            request(prompt, adapter, max_tokens=6, ignore_eos=True)
            for prompt in prompts(6)
            for adapter in (None, *adapters)
        ]
        with LogitTap(runtime) as expected:
            for item in items:
                run(runtime, [item])
        assert runtime.engine.stats().num_cached_tokens == 0
    with served(checkpoint, tmp_path / "data", **how) as runtime:
        for seed in range(3):
            draw = random.Random(seed)
            copies = [again(item) for item in items]
            shuffled = draw.sample(copies, len(copies))
            with LogitTap(runtime) as tap:
                run(runtime, shuffled[:9])
                run(runtime, shuffled[9:])
            for item, repeated in zip(items, copies, strict=True):
                assert torch.equal(tap.of(repeated), expected.of(item))
        assert runtime.engine.stats().num_cached_tokens > 1000


def test_what_was_found_is_counted(runtime: Runtime) -> None:
    item = request([*LONG, 9], max_tokens=2, ignore_eos=True)
    (first,) = run(runtime, [item])
    (second,) = run(runtime, [again(item)])
    assert [one.finished.cached_len for one in (first, second)] == [0, NUM_SHARED]
    assert [one.finished.prompt_len for one in (first, second)] == [71, 71]
    stats = runtime.engine.stats()
    assert stats.num_prompt_tokens == 71 + 71 - NUM_SHARED
    assert stats.num_cached_tokens == NUM_SHARED
    assert stats.num_cached_blocks == NUM_SHARED // stats.block_size


def test_tenants_and_adapters_share_nothing(tmp_path: Path, runtime: Runtime) -> None:
    """Not even two tenants the base, nor the same file that both have uploaded."""
    mine = adapters_of(tmp_path, runtime)
    yours = upload(runtime, "other", "adapter-0", tmp_path / "adapter-0")
    assert yours.digest == mine[0].digest
    asked: list[tuple[Adapter | None, str]] = [
        (None, "test"),
        (None, "other"),
        (mine[0], "tenant"),
        (mine[1], "tenant"),
        (yours, "other"),
    ]
    for adapter, tenant in asked:
        base = request(LONG, max_tokens=1)
        item = Request(base.id, base.prompt, base.params, adapter, tenant)
        (outcome,) = run(runtime, [item])
        assert outcome.finished.cached_len == 0
        (outcome,) = run(runtime, [again(item)])
        assert outcome.finished.cached_len == NUM_SHARED


def test_after_a_failed_pass_nothing_is_found(runtime: Runtime) -> None:
    item = request([*LONG, 9], max_tokens=2, ignore_eos=True)
    run(runtime, [item])
    forward = runtime.engine._model.forward

    def fails_once(batch: Batch) -> Tensor:
        runtime.engine._model.forward = forward  # type: ignore[method-assign]
        raise RuntimeError("a kernel failed")

    runtime.engine._model.forward = fails_once  # type: ignore[method-assign]
    (bad,) = run(runtime, [again(item)])
    assert bad.finished.reason == "error"
    (good,) = run(runtime, [again(item)])
    assert good.finished.reason == "length"
    assert good.finished.cached_len == 0


def test_what_a_row_that_was_not_finite_computed_is_not_found(runtime: Runtime) -> None:
    item = request([*LONG, 9], max_tokens=2, ignore_eos=True)
    forward = runtime.engine._model.forward

    def poisoned(batch: Batch) -> Tensor:
        return forward(batch) * float("nan")

    runtime.engine._model.forward = poisoned  # type: ignore[method-assign]
    (bad,) = run(runtime, [item])
    runtime.engine._model.forward = forward  # type: ignore[method-assign]
    assert bad.finished.reason == "error"
    (good,) = run(runtime, [again(item)])
    assert good.finished.reason == "length"
    assert good.finished.cached_len == 0
