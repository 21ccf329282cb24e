"""Families whose updates are products: the lowered tensors compute what PEFT's modules compute."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterStore, Limits
from peft import (
    DeloraConfig,
    GraloraConfig,
    HRAConfig,
    LoHaConfig,
    LoKrConfig,
    MissConfig,
    PeftConfig,
    TinyLoraConfig,
)
from peft.tuners.beft import BeftConfig
from peft.tuners.deft import DeftConfig
from peft.tuners.unilora import UniLoraConfig

from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import base_of, require_equal, tiny_llama, write

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOME = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
EVERY = {"target_modules": ALL, "task_type": "CAUSAL_LM"}

CASES: dict[str, PeftConfig] = {
    "loha": LoHaConfig(r=4, alpha=6, **EVERY),
    "loha-patterns": LoHaConfig(
        r=4,
        rank_pattern={"q_proj": 2, "layers.1.self_attn.v_proj": 3},
        alpha_pattern={"v_proj": 5},
        **SOME,
    ),
    "lokr": LoKrConfig(r=2, alpha=3, **EVERY),
    "lokr-whole": LoKrConfig(r=12, alpha=3, **SOME),
    "lokr-both": LoKrConfig(r=2, alpha=3, decompose_both=True, **EVERY),
    "lokr-factor": LoKrConfig(r=2, alpha=3, decompose_factor=4, **EVERY),
    "hra": HRAConfig(r=4, **EVERY),
    "hra-odd": HRAConfig(r=5, layers_to_transform=[1], **SOME),
    "hra-orthogonal": HRAConfig(r=4, apply_GS=True, init_weights=False, **EVERY),
    "miss": MissConfig(r=4, **EVERY),
    "miss-padded": MissConfig(r=5, **EVERY),
    "miss-mini": MissConfig(r=4, init_weights="mini", mini_r=8, **EVERY),
    "delora": DeloraConfig(r=4, **EVERY),
    "delora-patterns": DeloraConfig(
        r=4, rank_pattern={"q_proj": 2}, lambda_pattern={"q_proj": 3}, **SOME
    ),
    "gralora": GraloraConfig(r=4, alpha=6, gralora_k=2, **EVERY),
    "gralora-4": GraloraConfig(r=8, alpha=6, gralora_k=4, **EVERY),
    "gralora-hybrid": GraloraConfig(r=4, alpha=6, gralora_k=2, hybrid_r=3, **EVERY),
    "tinylora": TinyLoraConfig(r=2, u=8, **EVERY),
    "tinylora-drawn": TinyLoraConfig(r=3, u=8, save_projection=False, projection_seed=5, **EVERY),
    "tinylora-tied": TinyLoraConfig(r=2, u=8, weight_tying=0.6, **EVERY),
    "tinylora-one": TinyLoraConfig(r=2, u=8, weight_tying=1.0, **SOME),
    "deft": DeftConfig(r=4, **EVERY),
    "deft-scaled": DeftConfig(r=4, alpha=6, **SOME),
    "deft-qr": DeftConfig(r=4, decomposition_method="qr", **EVERY),
    "para": DeftConfig(r=4, decomposition_method="qr", para=True, **SOME),
    "unilora": UniLoraConfig(r=4, theta_d_length=300, proj_seed=7, **EVERY),
    "unilora-short": UniLoraConfig(r=3, theta_d_length=7, layers_to_transform=[1], **SOME),
    "beft": BeftConfig(**EVERY),
    "all-linear": HRAConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
}


# Each number is divided by the root of its many uses.
SIZES = {"unilora-short": 5.0}


@pytest.fixture(scope="module")
def base() -> RandomBase:
    return base_of(tiny_llama())


@pytest.fixture(scope="module")
def store(base: RandomBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


@pytest.mark.parametrize("name", CASES)
def test_lowered_equals_peft(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str
) -> None:
    written = write(CASES[name], tmp_path, size=SIZES.get(name, 0.2))
    adapter = written.put(store, name)
    assert not adapter.warnings
    require_equal(store, base, written.oracle, adapter)
