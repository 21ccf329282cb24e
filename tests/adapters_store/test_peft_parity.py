"""The lowered tensors compute what PEFT computes on the same dequantised NF4 weights."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from motet_adapters import Adapter, AdapterStore, Limits
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, put_bytes
from tests.support.base_weights import RandomBase

TOLERANCE = 1e-5  # relative to the largest output, float32
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def through_nf4(weight: Tensor) -> Tensor:
    """What the NF4 base really multiplies by."""
    codes, state = quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4")
    return dequantize_4bit(codes, state).float()


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=True,
            tie_word_embeddings=False,
        )
    ).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = through_nf4(module.weight.data * 8)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return model


def randomised(model: PeftModel) -> PeftModel:
    random = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.data *= torch.rand(parameter.shape, generator=random) + 0.5
        elif "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
    return model.eval()


@pytest.fixture(scope="module")
def base() -> RandomBase:
    return RandomBase.of(tiny_llama())


@pytest.fixture(scope="module")
def store(base: RandomBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


CASES: dict[str, dict[str, object]] = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rslora": {"r": 8, "lora_alpha": 4, "use_rslora": True, "target_modules": ALL},
    "dora": {"r": 4, "lora_alpha": 16, "use_dora": True, "target_modules": ALL},
    "dora-rslora": {
        "r": 2,
        "lora_alpha": 3,
        "use_dora": True,
        "use_rslora": True,
        "target_modules": ["o_proj", "down_proj"],
    },
    "all-linear": {"r": 1, "target_modules": "all-linear"},
    "patterns": {
        "r": 4,
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 16, "q_proj": 2, "^model.nothing": 3},
        "alpha_pattern": {"up_proj": 32, "layers.0.mlp.up_proj": 5},
    },
    "patterns-that-overlap": {
        "r": 4,
        "target_modules": ["up_proj"],
        "alpha_pattern": {"up_proj": 32, "mlp.up_proj": 2, "layers.0.mlp.up_proj": 5},
    },
    "patterns-rslora-dora": {
        "r": 4,
        "use_rslora": True,
        "use_dora": True,
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"^model.layers.2.self_attn.v_proj": 8},
        "alpha_pattern": {"v_proj": 1},
    },
    "some-layers": {
        "r": 4,
        "target_modules": ["q_proj", "mlp.up_proj"],
        "layers_to_transform": [0, 2],
    },
    "one-layer": {
        "r": 4,
        "target_modules": ["q_proj"],
        "layers_to_transform": 1,
        "layers_pattern": "layers",
    },
    "excluded": {
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "exclude_modules": ["layers.1.self_attn.v_proj"],
    },
    "whole-paths": {
        "r": 4,
        "target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj"],
    },
    "gaussian": {"r": 4, "init_lora_weights": "gaussian", "target_modules": ["q_proj"]},
    "orthogonal": {"r": 4, "init_lora_weights": "orthogonal", "target_modules": ["q_proj"]},
    "wide": {"r": 64, "lora_dropout": 0.1, "use_dora": True, "target_modules": ["gate_proj"]},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_lowered_equals_peft(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", **CASES[name])
    model = randomised(get_peft_model(tiny_llama(), config, autocast_adapter_dtype=False))
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = parameter.data.to(dtype)
    model.save_pretrained(tmp_path)
    # Loaded again, because PEFT sorts the keys of its patterns when it saves them, and the first
    # that matches wins: what the files mean is what PEFT makes of them.
    model = PeftModel.from_pretrained(tiny_llama(), tmp_path, autocast_adapter_dtype=True)
    adapter = put_bytes(
        store,
        (tmp_path / CONFIG_FILE).read_bytes(),
        (tmp_path / WEIGHTS_FILE).read_bytes(),
        name=name,
    )
    assert adapter.kind == ("dora" if "dora" in name or name == "wide" else adapter.kind)
    require_equal(store, base, model, adapter)


def require_equal(
    store: AdapterStore, base: RandomBase, model: PeftModel, adapter: Adapter
) -> None:
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    adapted: Mapping[str, nn.Module] = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(views) == set(adapted)
    assert sum(adapter.matched.values()) == len(adapted)
    assert set(adapter.ranks) == {parts.tensors["a"].shape[0] for parts in views.values()}
    random = torch.Generator().manual_seed(3)
    for name, module in adapted.items():
        a, bt, gain = (views[name].tensors.get(part) for part in ("a", "bt", "gain"))
        assert a is not None
        assert bt is not None
        x = torch.randn(5, a.shape[1], generator=random)
        with torch.no_grad():
            expected = module(x)
        y = x @ base.weight(name).t() + (x @ a.t()) @ bt
        y = y if gain is None else y * gain
        bias = module.get_base_layer().bias
        y = y if bias is None else y + bias.data
        assert (y - expected).abs().max() <= TOLERANCE * expected.abs().max(), name


CONVERTED: dict[str, dict[str, object]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "pissa-rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"init_lora_weights": "olora"},
    "patterns": {
        "init_lora_weights": "pissa",
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"layers.2.self_attn.q_proj": 3},
    },
}


@pytest.mark.parametrize("name", CONVERTED)
def test_converted_is_plain_lora(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str
) -> None:
    """PEFT's own conversion, the fix that the refusal of PiSSA names, is accepted and right: of
    twice the rank, and alpha twice (rsLoRA: root of two times) as large."""
    values = CONVERTED[name]
    config = LoraConfig(
        **{"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]} | values
    )
    model = get_peft_model(tiny_llama(), config, autocast_adapter_dtype=False)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = values["init_lora_weights"]
    trained = randomised(model)
    trained.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "initial"
    )
    adapter = put_bytes(
        store,
        (tmp_path / "converted" / CONFIG_FILE).read_bytes(),
        (tmp_path / "converted" / WEIGHTS_FILE).read_bytes(),
        name=name,
    )
    assert adapter.kind == ("rslora" if "rslora" in name else "lora")
    assert adapter.ranks == ((4, 8) if name == "patterns" else (8,))
    image = store.image(adapter.digest)
    for module_name, parts in image.views(image.buffer).items():
        a, bt = parts.tensors["a"], parts.tensors["bt"]
        module = trained.get_submodule(f"base_model.model.{module_name}")
        x = torch.ones(1, a.shape[1])
        with torch.no_grad():
            expected = module(x)
        y = x @ base.weight(module_name).t() + (x @ a.t()) @ bt + module.get_base_layer().bias.data
        assert (y - expected).abs().max() <= 10 * TOLERANCE * expected.abs().max()
