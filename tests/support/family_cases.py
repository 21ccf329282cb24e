"""One adapter of every family that is served, as its training library writes it, and the truth.

PEFT writes what PEFT can make, with random non-zero weights, and its own forward on the dequantised
base is the truth. Where a family is defined by the weight before it was quantised, PEFT writes it
on that weight, and the truth is the dequantised base with what PEFT's merging adds to it. What PEFT
cannot make is written in its published format, and its paper's formula is added densely.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from motet.engine.base import QuantizedBase
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners import CartridgeConfig
from peft.tuners.beft import BeftConfig
from peft.tuners.cpt import CPTConfig
from peft.tuners.deft import DeftConfig
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, VeloraConfig
from peft.tuners.pvera import PveraConfig
from peft.tuners.unilora import UniLoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from tests.support.published_families import PUBLISHED

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
INVOCATION = (11, 12)


def _lora(r: int, **values: Any) -> LoraConfig:
    return LoraConfig(**{"r": r, "lora_alpha": 6, **_EVERY, **values})


_EVERY: dict[str, Any] = {"target_modules": ALL, "task_type": "CAUSAL_LM"}
_CAUSAL: dict[str, Any] = {"task_type": "CAUSAL_LM"}

ON_THE_DEQUANTISED: Mapping[str, Callable[[int], PeftConfig]] = {
    "lora": _lora,
    "lora-plus": _lora,  # a learning rate: nothing of it is saved
    "qlora": _lora,
    "modulora": _lora,
    "rslora": lambda r: _lora(r, use_rslora=True),
    "dora": lambda r: _lora(r, use_dora=True),
    "velora": lambda r: _lora(r, velora_config=VeloraConfig(num_groups=4)),
    "eva": lambda r: _lora(r, init_lora_weights="eva", rank_pattern={"q_proj": 2}),
    "mica": lambda r: _lora(r, init_lora_weights="mica"),
    "orthogonal-lora": lambda r: _lora(r, init_lora_weights="orthogonal"),
    "gaussian-lora": lambda r: _lora(r, init_lora_weights="gaussian"),
    "alora": lambda r: _lora(r, alora_invocation_tokens=list(INVOCATION)),
    "bdlora": lambda r: _lora(
        r,
        use_bdlora=BdLoraConfig(
            target_modules_bd_a=["o_proj", "down"],
            target_modules_bd_b=["q_proj"],
            nblocks=2,
            match_strict=False,
        ),
    ),
    "loha": lambda r: peft.LoHaConfig(r=r, alpha=6, **_EVERY),
    "lokr": lambda r: peft.LoKrConfig(r=r // 2, alpha=3, decompose_both=True, **_EVERY),
    "hra": lambda r: peft.HRAConfig(r=r, **_EVERY),
    "miss": lambda r: peft.MissConfig(r=r, **_EVERY),
    "delora": lambda r: peft.DeloraConfig(r=r, **_EVERY),
    "gralora": lambda r: peft.GraloraConfig(r=r, alpha=6, gralora_k=2, **_EVERY),
    "deft": lambda r: DeftConfig(r=r, **_EVERY),
    "tinylora": lambda r: peft.TinyLoraConfig(r=2, u=8, **_EVERY),
    "vera": lambda r: peft.VeraConfig(r=4 * r, **_EVERY),
    "pvera": lambda r: PveraConfig(r=16, **_EVERY),
    "unilora": lambda r: UniLoraConfig(r=r, theta_d_length=512, **_EVERY),
    "beft": lambda r: BeftConfig(**_EVERY),
    "adalora": lambda r: peft.AdaLoraConfig(
        init_r=r + 2, target_r=r, lora_alpha=6, tinit=1, tfinal=1, total_step=10, **_EVERY
    ),
    "ia3": lambda r: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        **_CAUSAL,
    ),
    "ln_tuning": lambda r: peft.LNTuningConfig(
        target_modules=["input_layernorm", "post_attention_layernorm", "norm"], **_CAUSAL
    ),
    "trainable_tokens": lambda r: peft.TrainableTokensConfig(
        token_indices=[11, 40, 200], target_modules=["embed_tokens"], **_CAUSAL
    ),
    "vblora": lambda r: peft.VBLoRAConfig(
        r=4, num_vectors=32, vector_length=16, save_only_topk_weights=True, **_EVERY
    ),
    "prompt-tuning": lambda r: peft.PromptTuningConfig(num_virtual_tokens=5, **_CAUSAL),
    "p-tuning": lambda r: peft.PromptEncoderConfig(
        num_virtual_tokens=6, encoder_hidden_size=24, **_CAUSAL
    ),
    "cpt": lambda r: CPTConfig(
        cpt_token_ids=[5, 6, 7], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 3], **_CAUSAL
    ),
    "prefix-tuning": lambda r: peft.PrefixTuningConfig(num_virtual_tokens=7, **_CAUSAL),
    "cartridge": lambda r: CartridgeConfig(num_virtual_tokens=6, **_CAUSAL),
}

ON_THE_ORIGINAL: Mapping[str, Callable[[int], PeftConfig]] = {
    "pissa": lambda r: _lora(r, init_lora_weights="pissa"),
    "olora": lambda r: _lora(r, init_lora_weights="olora"),
    "kasa": lambda r: _lora(r, kasa_config=KasaConfig()),
}

# What a family may have besides its product: each with everything else of LoRA.
BESIDES: Mapping[str, Callable[[int], PeftConfig]] = {
    "lora-bias": lambda r: _lora(r, lora_bias=True, use_rslora=True),
    "biases-all": lambda r: _lora(r, bias="all", target_modules=["q_proj", "up_proj"]),
    "embedding": lambda r: _lora(r, target_modules=["embed_tokens", "q_proj"]),
    "embedding-dora": lambda r: _lora(r, target_modules=["embed_tokens", "v_proj"], use_dora=True),
    "head": lambda r: _lora(r, target_modules=["lm_head", "q_proj"]),
    "whole-head": lambda r: _lora(r, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "lora-and-tokens": lambda r: _lora(r, trainable_token_indices=[11, 40, 200]),
}


@dataclass(frozen=True)
class Truth:
    """An adapter's two files, and what it computes."""

    directory: Path
    oracle: nn.Module


def peft_names() -> list[str]:
    return [*ON_THE_DEQUANTISED, *ON_THE_ORIGINAL, *BESIDES]


def names() -> list[str]:
    return [*peft_names(), *PUBLISHED]


def make(
    name: str,
    base: QuantizedBase,
    plain: PreTrainedModel,
    directory: Path,
    *,
    rank: int = 4,
    everywhere: bool = False,
) -> Truth:
    """plain: the model on the dequantised weights, float32. everywhere: on all linears, also where
    the published example has one of them."""
    seed = sum(name.encode())
    if name in PUBLISHED:
        files, change = PUBLISHED[name](base, seed, rank, everywhere)
        if not callable(change):
            return Truth(_saved(files, directory), _with_deltas(plain, change))
        model = copy.deepcopy(plain)
        change(model)
        return Truth(_saved(files, directory), model)
    if name in ON_THE_ORIGINAL:
        original = _with_originals(plain, base)
        oracle = written(ON_THE_ORIGINAL[name](rank), original, directory, seed)
        merged = oracle.merge_and_unload()
        before = _with_originals(plain, base)
        deltas = {
            path: merged.get_submodule(path).weight.data - before.get_submodule(path).weight.data
            for path in base.modules()
        }
        return Truth(directory, _with_deltas(plain, deltas))
    config = {**ON_THE_DEQUANTISED, **BESIDES}[name](rank)
    return Truth(directory, written(config, plain, directory, seed))


def written(config: PeftConfig, model: PreTrainedModel, directory: Path, seed: int) -> PeftModel:
    """By PEFT, every trained tensor changed at random; then read by PEFT again."""
    trained = get_peft_model(copy.deepcopy(model), config, autocast_adapter_dtype=False)
    random = torch.Generator().manual_seed(seed)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=random) * 0.2
    trained.save_pretrained(str(directory))
    fresh = copy.deepcopy(model)
    return PeftModel.from_pretrained(fresh, str(directory), autocast_adapter_dtype=False).eval()


def _saved(files: AdapterFiles, directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / CONFIG_FILE).write_text(json.dumps(files.config))
    (directory / WEIGHTS_FILE).write_bytes(files.weights_bytes)
    return directory


def _with_originals(plain: PreTrainedModel, base: QuantizedBase) -> PreTrainedModel:
    model = copy.deepcopy(plain)
    for path in base.modules():
        original = base.original(path)
        assert original is not None
        model.get_submodule(path).weight.data = original
    return model


def _with_deltas(plain: PreTrainedModel, deltas: Mapping[str, Tensor]) -> PreTrainedModel:
    model = copy.deepcopy(plain)
    for path, delta in deltas.items():
        model.get_submodule(path).weight.data += delta
    return model.eval()
