"""Every family that is served computes what its own definition says, alone and in one batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from motet_adapters import Adapter
from peft import PeftModel
from torch import nn

from tests.support.dense_model import dense_model
from tests.support.family_cases import make, names
from tests.support.family_stage import Stage
from tests.support.serving import LogitTap, again, run, served, upload
from tests.support.tiny_models import make_checkpoint

# Several adapters in one request, with their weights; PEFT concatenates them.
SUM = {"lora": 0.7, "rslora": 1.5, "eva": -0.4}


@pytest.fixture(scope="module", params=["auto", "torch"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """With the native kernels, whole layers in one call; and in torch, module by module."""
    tmp_path = tmp_path_factory.mktemp("families")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", attention_bias=True)
    # Room for a prompt of every family in one forward pass.
    settings = {"max_num_seqs": 64, "max_batch_tokens": 2560, "max_adapter_slots": 64}
    with served(checkpoint, tmp_path / "data", cpu_kernels=request.param, **settings) as runtime:
        plain = dense_model(runtime.base)
        truths = {name: make(name, runtime.base, plain, tmp_path / name) for name in names()}
        oracles: dict[str, nn.Module] = {name: truth.oracle for name, truth in truths.items()}
        adapters = {
            name: upload(runtime, "tenant", name, truth.directory) for name, truth in truths.items()
        }
        directories = {name: truth.directory for name, truth in truths.items()}
        yield Stage(runtime, plain, oracles, adapters, directories)


@pytest.mark.parametrize("name", names())
def test_alone(stage: Stage, name: str) -> None:
    stage.require_right_alone(name)


def test_all_in_one_batch_with_base_rows(stage: Stage) -> None:
    stage.require_right_together([None, *names(), None])


def test_a_weighted_sum_beside_its_members_and_others(stage: Stage) -> None:
    with stage.runtime.store.lease_sum("tenant", list(SUM.items())) as lease:
        adapters: dict[str, Adapter] = {**stage.adapters, "sum": lease.adapter}
        with_sum = replace(
            stage, adapters=adapters, oracles={**stage.oracles, "sum": concatenated(stage)}
        )
        with_sum.require_right_alone("sum")
        others = ["dora", "svft", "prefix-tuning", "alora"]
        with_sum.require_right_together([None, "sum", *SUM, *others, None])


def concatenated(stage: Stage) -> PeftModel:
    """PEFT's own weighted combination of the adapters' files."""
    first, *others = SUM
    directories = {name: stage.directories[name] for name in SUM}
    model = PeftModel.from_pretrained(
        copy.deepcopy(stage.plain), str(directories[first]), adapter_name=first
    )
    for name in others:
        model.load_adapter(str(directories[name]), adapter_name=name)
    model.add_weighted_adapter(list(SUM), list(SUM.values()), "sum", combination_type="cat")
    model.set_adapter("sum")
    return model.eval()


def test_the_same_request_twice_has_the_same_bits(stage: Stage) -> None:
    first = stage.ask("dora")
    second = again(first)
    with LogitTap(stage.runtime) as tap:
        run(stage.runtime, [first])
        run(stage.runtime, [second])
    assert torch.equal(tap.of(first), tap.of(second))
