"""LoRA on stacked experts: lowered, it is what PEFT adds to each expert's weight."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine.base.model_parts import ModelParts
from motet_adapters import AdapterRefused, AdapterStore, Limits
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.support.adapter_files import CONFIG_FILE, PREFIX, WEIGHTS_FILE, put_bytes
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import TOLERANCE
from tests.support.unstacked_experts import QWEN, write_unstacked

EXPERTS = "model.layers.{}.mlp.experts"


def mixture() -> PreTrainedModel:
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=24,
            hidden_size=32,
            intermediate_size=48,
            moe_intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
        )
    ).eval()


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    model = mixture()
    own = RandomBase.of(model)
    base = RandomBase(
        {module: own.weight(module) for module in own.modules() if "self_attn" in module},
        dense={path: own.dense(path) for path in (*own.norms(), "model.embed_tokens", "lm_head")},
        experts=ModelParts.of(model).experts,
    )
    return AdapterStore(
        tmp_path / "store", base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24
    )


CASES: dict[str, dict[str, Any]] = {
    "both": {"target_parameters": ["mlp.experts.gate_up_proj", "experts.down_proj"]},
    "one": {"target_parameters": ["model.layers.1.mlp.experts.down_proj"], "use_rslora": True},
    "beside linears": {
        "target_parameters": ["experts.down_proj", "gate_up_proj"],
        "target_modules": ["q_proj"],
        "rank_pattern": {"experts.down_proj": 2},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_lowered_equals_peft(store: AdapterStore, tmp_path: Path, name: str) -> None:
    config = LoraConfig(
        **{"r": 3, "lora_alpha": 6, "target_modules": [], "task_type": "CAUSAL_LM"} | CASES[name]
    )
    written = get_peft_model(mixture(), config)
    random = torch.Generator().manual_seed(5)
    for parameter in written.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=random)
    written.save_pretrained(str(tmp_path))
    oracle = PeftModel.from_pretrained(mixture(), str(tmp_path))
    adapter = put_bytes(
        store, (tmp_path / CONFIG_FILE).read_bytes(), (tmp_path / WEIGHTS_FILE).read_bytes()
    )
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    found = set()
    for layer in range(2):
        path = EXPERTS.format(layer)
        wrapper: Any = oracle.get_submodule(f"{PREFIX}{path}")
        while isinstance(wrapper, ParamWrapper):
            expected = wrapper.get_delta_weight("default")  # [E, N, K]
            parts = views[path].tensors
            a, bt = (parts[f"{wrapper.parameter_name}.{part}"] for part in ("a", "bt"))
            delta = bt.transpose(1, 2) @ a
            assert (delta - expected).abs().max() <= TOLERANCE * expected.abs().max()
            found |= {(path, f"{wrapper.parameter_name}.{part}") for part in ("a", "bt")}
            wrapper = wrapper.base_layer
    stored = {(path, part) for path in views if "experts" in path for part in views[path].tensors}
    assert found == stored
    assert found
    store.close()


def test_parameters_that_are_no_experts_are_refused(store: AdapterStore, tmp_path: Path) -> None:
    values = {"peft_type": "LORA", "target_parameters": ["q_proj.weight"], "r": 4}
    with pytest.raises(AdapterRefused, match="no stacked weight"):
        put_bytes(store, json.dumps(values).encode(), b"\x02\0\0\0\0\0\0\0{}")
    values |= {"target_parameters": ["experts.down_proj"], "use_dora": True}
    with pytest.raises(AdapterRefused, match="does not combine"):
        put_bytes(store, json.dumps(values).encode(), b"\x02\0\0\0\0\0\0\0{}")
    store.close()


@pytest.mark.parametrize(
    "values", [{"use_dora": True}, {"use_rslora": True}, {"alpha_pattern": {"down_proj": 2}}]
)
def test_single_experts_of_a_variant_are_refused(
    store: AdapterStore, tmp_path: Path, values: dict[str, object]
) -> None:
    write_unstacked(mixture(), tmp_path / "old", QWEN, ["q_proj", "gate", *QWEN[1]])
    config = json.loads((tmp_path / "old" / CONFIG_FILE).read_bytes())
    weights = (tmp_path / "old" / WEIGHTS_FILE).read_bytes()
    assert put_bytes(store, json.dumps(config).encode(), weights).ranks == (3, 6)
    with pytest.raises(AdapterRefused, match="single experts"):
        put_bytes(store, json.dumps(config | values).encode(), weights)
    untargeted = json.dumps(config | {"target_modules": ["q_proj"]}).encode()
    with pytest.raises(AdapterRefused, match="fit no targeted module"):
        put_bytes(store, untargeted, weights)
    store.close()
