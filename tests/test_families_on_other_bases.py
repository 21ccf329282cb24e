"""Where a base has what most have not, a head tied to the embedding or experts, what PEFT adapts of
it is served as PEFT computes it, alone and in one batch with other families and base rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
from peft import LoraConfig, PeftConfig, PeftModel

from tests.support.dense_model import dense_model
from tests.support.family_cases import INVOCATION, written
from tests.support.family_stage import Stage
from tests.support.serving import served, upload
from tests.support.tiny_models import make_checkpoint
from tests.support.unstacked_experts import QWEN, write_unstacked

_CAUSAL: Mapping[str, Any] = {"task_type": "CAUSAL_LM"}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def _lora(*targets: str, **values: Any) -> LoraConfig:
    return LoraConfig(
        **{"r": 4, "lora_alpha": 6, "target_modules": list(targets)} | _CAUSAL | values
    )


OTHERS: dict[str, PeftConfig] = {
    "lora": _lora("q_proj", "o_proj"),
    "dora": _lora("k_proj", "v_proj", use_dora=True),
    "alora": _lora("q_proj", "v_proj", alora_invocation_tokens=list(INVOCATION)),
    "ia3": peft.IA3Config(target_modules=["k_proj", "v_proj"], feedforward_modules=[], **_CAUSAL),
    "prompt-tuning": peft.PromptTuningConfig(num_virtual_tokens=5, **_CAUSAL),
    "prefix-tuning": peft.PrefixTuningConfig(num_virtual_tokens=7, **_CAUSAL),
    "norms": peft.LNTuningConfig(target_modules=["input_layernorm", "norm"], **_CAUSAL),
}
TIED: dict[str, PeftConfig] = {
    "embedding": _lora("embed_tokens"),
    "head": _lora("lm_head", "q_proj"),
    "embedding and head": _lora("embed_tokens", "lm_head"),
    "embedding, tied for sure": _lora("embed_tokens", ensure_weight_tying=True),
    "whole embedding": _lora("q_proj", modules_to_save=["embed_tokens"]),
    "whole embedding, tied for sure": _lora(
        "q_proj", modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "tokens": _lora("q_proj", trainable_token_indices=[40, 7, 200]),
    "tokens of both": _lora(
        "q_proj", trainable_token_indices={"embed_tokens": [7, 40], "lm_head": [7, 40]}
    ),
    "tokens that differ": _lora(
        "q_proj", trainable_token_indices={"embed_tokens": [7, 40], "lm_head": [9, 40]}
    ),
    "tokens alone": peft.TrainableTokensConfig(token_indices=[40, 7], **_CAUSAL),
}
ON_EXPERTS: dict[str, PeftConfig] = {
    "experts": _lora(target_parameters=EXPERTS),
    "experts and linears": _lora("q_proj", target_parameters=EXPERTS, use_rslora=True),
    # PEFT makes of the names that experts had as linears those of their stacked weights.
    "experts as linears": _lora("q_proj", "gate_proj", "up_proj", "down_proj"),
    "all linears": _lora("q_proj", target_modules="all-linear"),  # and experts and routers
    "router": _lora("gate"),
    "some experts": _lora(
        target_parameters=["experts.down_proj"], rank_pattern={"experts.down_proj": 2}
    ),
    "one layer's experts": _lora(
        "v_proj", target_parameters=["model.layers.1.mlp.experts.gate_up_proj"]
    ),
}


@contextmanager
def _stage(tmp_path: Path, base: str, configs: Mapping[str, PeftConfig]) -> Iterator[Stage]:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", base)
    settings = {"max_batch_tokens": 1280, "max_adapter_slots": 24}
    with served(checkpoint, tmp_path / "data", **settings) as runtime:
        plain = dense_model(runtime.base)
        oracles, adapters, directories = {}, {}, {}
        for number, (name, config) in enumerate(configs.items()):
            directories[name] = tmp_path / str(number)
            # PEFT writes into the config what it finds the base to have.
            own = copy.deepcopy(config)
            oracles[name] = written(own, plain, directories[name], seed=number)
            adapters[name] = upload(runtime, "tenant", f"a{number}", directories[name])
        yield Stage(runtime, plain, oracles, adapters, directories)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with _stage(tmp_path_factory.mktemp("tied"), "llama_tied", TIED | OTHERS) as stage:
        yield stage


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with _stage(tmp_path_factory.mktemp("mixture"), "qwen3_moe", ON_EXPERTS | OTHERS) as stage:
        yield stage


@pytest.mark.parametrize("name", TIED | OTHERS)
def test_with_a_tied_head(tied: Stage, name: str) -> None:
    tied.require_right_alone(name)


def test_all_in_one_batch_with_a_tied_head(tied: Stage) -> None:
    tied.require_right_together([None, *TIED, *OTHERS, None])


@pytest.mark.parametrize("name", ON_EXPERTS | OTHERS)
def test_with_experts(mixture: Stage, name: str) -> None:
    mixture.require_right_alone(name)


def test_all_in_one_batch_with_experts(mixture: Stage) -> None:
    mixture.require_right_together([None, *ON_EXPERTS, *OTHERS, None])


@pytest.mark.parametrize(
    "targets", [["q_proj", "gate", *QWEN[1]], r".*\.(gate|gate_proj|up_proj|down_proj|q_proj)"]
)
def test_experts_as_transformers_4_had_them(
    mixture: Stage, tmp_path: Path, targets: object
) -> None:
    """PEFT stacks what such files hold; the server does so too."""
    write_unstacked(mixture.plain, tmp_path / "old", QWEN, targets)
    fresh = copy.deepcopy(mixture.plain)
    oracle = PeftModel.from_pretrained(fresh, str(tmp_path / "old")).eval()
    adapter = upload(mixture.runtime, "tenant", "old", tmp_path / "old")
    stage = replace(
        mixture,
        oracles={**mixture.oracles, "old": oracle},
        adapters={**mixture.adapters, "old": adapter},
    )
    stage.require_right_alone("old")
    stage.require_right_together([None, "old", "experts", "prefix-tuning", None])
