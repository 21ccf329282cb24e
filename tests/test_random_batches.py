"""Row independence, end to end: a request's logits in random company are those it has alone."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from motet.engine.runtime import Runtime, open_runtime
from motet.settings import Settings
from motet_adapters import Adapter
from motet_kernels import dispatch
from motet_kernels.cpu.native_build import BuildFailed
from motet_kernels.cpu.native_library import ALL_LEVELS, FAST_LEVELS, runnable_levels
from motet_kernels.cpu.native_ops import NativeCpuOps
from motet_kernels.cpu.rounding_ops import RoundingCpuOps
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from tests.support.dense_model import dense_model
from tests.support.peft_adapters import make_adapter
from tests.support.replay import Replayer, Script, alone, draw_conditions
from tests.support.serving import upload
from tests.support.tiny_models import make_checkpoint

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NUM_ADAPTERS = 8
INVOCATION = 251
NUM_SLOTS = 5  # so that adapters come and go within a batch
NUM_SCRIPTS = 60


@dataclass(frozen=True)
class House:
    """A model, requests with known answers, and each one's logits when it runs alone."""

    runtime: Runtime
    replayer: Replayer
    scripts: list[Script]
    solos: list[Tensor]


@contextmanager
def furnished(directory: Path, checkpoint: str) -> Iterator[House]:
    """In bfloat16, on what serves this machine; of each kind that the engine tells apart."""
    settings = Settings(
        base=str(make_checkpoint(directory / "checkpoint", checkpoint)),
        data_dir=directory / "data",
        dtype="bfloat16",
        device="cpu",
        threads=1,
        kv_cache_bytes=8 << 20,
        adapter_device_bytes=64 << 20,
        max_adapter_slots=NUM_SLOTS,
    )
    runtime = open_runtime(settings, lambda _doing, _done: None)
    try:
        if not runtime.kernels.implementation.startswith("cpu-native"):
            pytest.skip("the native kernels alone promise the same bits for any chunks and threads")
        adapters = make_adapters(directory, runtime)
        scripts = draw_scripts(adapters)
        replayer = Replayer(runtime)
        solos = [
            replayer.run([script], alone(script, replayer.block_size)).logits[0]
            for script in scripts
        ]
        yield House(runtime, replayer, scripts, solos)
    finally:
        runtime.close()


def make_adapters(directory: Path, runtime: Runtime) -> list[Adapter]:
    """LoRA and DoRA, aLoRA, and virtual tokens that are computed or stored."""
    plain = dense_model(runtime.base)
    others: list[PeftConfig] = [
        PromptTuningConfig(num_virtual_tokens=21, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=6, task_type="CAUSAL_LM"),
        LoraConfig(
            r=8,
            target_modules=["q_proj", "v_proj"],
            alora_invocation_tokens=[INVOCATION],
            task_type="CAUSAL_LM",
        ),
    ]
    adapters = []
    for index, config in enumerate(others):
        make_random(plain, directory / f"other-{index}", config)
        adapters.append(upload(runtime, "tenant", f"other-{index}", directory / f"other-{index}"))
    has_experts = any("expert" in name for name, _ in plain.named_parameters())
    for index in range(NUM_ADAPTERS):
        use_dora = index % 3 == 2
        targets = ALL if index % 2 else ["q_proj", "down_proj"]
        if use_dora and has_experts:  # which PEFT has no DoRA for
            targets = ["q_proj", "o_proj"]
        config = LoraConfig(
            r=(1, 3, 8, 16)[index % 4],
            lora_alpha=8,
            target_modules=targets,
            task_type="CAUSAL_LM",
            use_dora=use_dora,
        )
        made = directory / f"adapter-{index}"
        make_adapter(plain, made, index, config)
        adapters.append(upload(runtime, f"tenant-{index}", "mine", made))
    return adapters


def make_random(plain: PreTrainedModel, directory: Path, config: PeftConfig) -> None:
    """Write an adapter with random weights."""
    model = get_peft_model(copy.deepcopy(plain), config)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(str(directory))


def draw_scripts(adapters: list[Adapter]) -> list[Script]:
    """A fifth of them on the base."""
    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 250) for _ in range(count))

    def prompt() -> tuple[int, ...]:
        """Many begin alike, and some have the invocation in them, here or there."""
        made = [*alike[: draw.choice((0, 20, 40))], *tokens(draw.randint(1, 40))]
        for _ in range(draw.choice((0, 0, 3))):
            made[draw.randrange(len(made))] = INVOCATION
        return tuple(made)

    alike = tokens(40)
    return [
        Script(
            prompt(),
            tokens(draw.randint(1, 12)),
            draw.choice(adapters) if index % 5 else None,
        )
        for index in range(NUM_SCRIPTS)
    ]


@dataclass
class Findings:
    """violations: (seed, request within the batch, which of its tokens)."""

    violations: list[tuple[int, int, int]]
    seen: Counter[str]


def compare(house: House, seeds: Iterable[int]) -> Findings:
    """Run a random batch for each seed and compare all its logits, bit by bit."""
    findings = Findings([], Counter())
    for seed in seeds:
        draw = random.Random(seed)
        chosen = [draw.randrange(NUM_SCRIPTS) for _ in range(draw.randint(2, 24))]
        scripts = [house.scripts[index] for index in chosen]
        conditions = draw_conditions(seed, scripts, house.replayer.block_size)
        replayed = house.replayer.run(scripts, conditions)
        findings.seen["mixed steps"] += replayed.num_mixed_steps
        findings.seen["preemptions"] += replayed.num_preemptions
        findings.seen["cached tokens"] += replayed.num_cached_tokens
        for request, (index, logits) in enumerate(zip(chosen, replayed.logits, strict=True)):
            alike = (logits == house.solos[index]).all(dim=1)
            findings.violations += [
                (seed, request, token) for token in (~alike).nonzero().flatten().tolist()
            ]
    findings.seen["evictions"] = house.runtime.arena.stats().num_evictions
    return findings


# Biases and odd sizes; sliding windows and soft caps; experts: 200 batches in all.
@pytest.mark.parametrize(
    ("checkpoint", "seeds"),
    [
        ("llama", range(120)),
        ("llama_odd", range(120, 160)),
        ("gemma2", range(160, 195)),
        ("qwen3_moe", range(195, 200)),
    ],
)
def test_200_random_batches(tmp_path: Path, checkpoint: str, seeds: range) -> None:
    with furnished(tmp_path, checkpoint) as house:
        findings = compare(house, seeds)
        assert findings.violations == [], "(seed, request, token) that had other bits than alone"
        assert min(findings.seen.values()) > 0, f"too tame: {findings.seen}"


@pytest.mark.parametrize("level", [level for level in ALL_LEVELS if level != "portable"])
def test_random_batches_at_every_level_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """The emulated ones too: what serves on processors that this machine is not."""
    try:
        runnable = runnable_levels(ALL_LEVELS)
    except BuildFailed as reason:
        pytest.skip(str(reason))
    if level not in runnable:
        pytest.skip(f"this machine cannot run {level}")
    kind = RoundingCpuOps if level in FAST_LEVELS else NativeCpuOps
    monkeypatch.setattr(dispatch, "NativeCpuOps", partial(kind, level))
    with furnished(tmp_path, "llama") as house:
        assert level in house.runtime.kernels.implementation
        assert compare(house, range(200, 210)).violations == []


def by_the_batch(_ops: NativeCpuOps, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A right product whose sums are split by how many different rows there are."""
    parts = 1 + x.unique(dim=0).shape[0] % 3
    pieces = zip(x.float().chunk(parts, 1), weight.float().chunk(parts, 1), strict=True)
    y = sum(F.linear(some_x, some_weight) for some_x, some_weight in pieces)
    assert isinstance(y, Tensor)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def test_a_kernel_that_sums_by_the_batch_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts are added in float32 and rounded once: hardly anything shows, and it is seen."""
    monkeypatch.setattr(NativeCpuOps, "dense_linear", by_the_batch)
    with furnished(tmp_path, "llama") as house:
        findings = compare(house, range(30))
        assert findings.violations
