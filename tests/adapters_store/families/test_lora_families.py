"""The families whose peft_type is LORA: lowered, they compute what PEFT's modules compute."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import Adapter, AdapterStore, Limits
from peft import LoraConfig, PeftModel
from peft.tuners.lora.config import BdLoraConfig, KasaConfig

from tests.support.adapter_files import PREFIX
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import (
    TOLERANCE,
    adapted_modules,
    base_of,
    linear_output,
    tiny_llama,
    write,
)

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config(**values: object) -> LoraConfig:
    return LoraConfig(
        **{"r": 4, "lora_alpha": 6, "target_modules": ALL, "task_type": "CAUSAL_LM"} | values
    )


CASES: dict[str, LoraConfig] = {
    "lora": config(),
    "rslora": config(use_rslora=True),
    "dora": config(use_dora=True),
    "eva": config(init_lora_weights="eva", rank_pattern={"q_proj": 2}),
    "mica": config(init_lora_weights="mica"),
    "orthogonal-lora": config(init_lora_weights="orthogonal"),
    "gaussian-lora": config(init_lora_weights="gaussian"),
    "lora-bias": config(lora_bias=True, use_rslora=True),
    "biases-all": config(bias="all", target_modules=["q_proj", "up_proj"]),
    "biases-lora-only": config(bias="lora_only", target_modules=["q_proj", "up_proj"]),
    "biases-and-lora-bias": config(bias="lora_only", lora_bias=True, target_modules=["q_proj"]),
    "biases-dora": config(bias="all", use_dora=True, target_modules=["q_proj", "v_proj"]),
    "fan-in-fan-out": config(fan_in_fan_out=True),
    "expression": config(target_modules=r".*\.layers\.1\.self_attn\.(q|v)_proj"),
    "excluded-by-expression": config(exclude_modules=r".*\.0\..*"),
    "pissa": config(init_lora_weights="pissa"),
    "pissa-rslora": config(init_lora_weights="pissa", use_rslora=True),
    "pissa-dora": config(init_lora_weights="pissa", use_dora=True, target_modules=["o_proj"]),
    "olora": config(init_lora_weights="olora"),
    "kasa": config(kasa_config=KasaConfig()),
    "bdlora": config(
        use_bdlora=BdLoraConfig(
            target_modules_bd_a=["o_proj", "down"],
            target_modules_bd_b=["q_proj"],
            nblocks=2,
            match_strict=False,
        )
    ),
    "alora": config(alora_invocation_tokens=[3, 5]),
}


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
    written = write(CASES[name], tmp_path)
    adapter = written.put(store, name=name)
    require_every_linear(store, base, written.oracle, adapter)


def require_every_linear(
    store: AdapterStore, base: RandomBase, oracle: PeftModel, adapter: Adapter
) -> None:
    """As `require_equal`, for all linears of the base; aLoRA's are asked behind the invocation."""
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    assert set(views) >= {path for path, _ in adapted_modules(oracle)}
    random = torch.Generator().manual_seed(3)
    for path in base.modules():
        module = oracle.get_submodule(f"{PREFIX}{path}")
        x = torch.randn(1, 5, base.shape(path)[1], generator=random)
        offsets = {"alora_offsets": [5]} if adapter.invocation_tokens else {}
        with torch.no_grad():
            expected = module(x, **(offsets if hasattr(module, "base_layer") else {}))
        plain = x @ base.weight(path).t() + (0 if base.bias(path) is None else base.bias(path))
        y = linear_output(base, path, views[path], x) if path in views else plain
        assert (y - expected).abs().max() <= TOLERANCE * expected.abs().max(), path
        if path in views:
            assert (expected - plain).abs().max() > 1e-2 * plain.abs().max(), f"{path} is inert"
