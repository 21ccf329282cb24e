"""PEFT's own modules against what an upload of the same files was lowered to, module by module."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from motet_adapters import Adapter, AdapterStore
from motet_adapters.image import SiteParts
from motet_kernels.lowrank import activated
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, put_bytes
from tests.support.base_weights import RandomBase

TOLERANCE = 1e-5  # relative to the largest output, float32


def tiny_llama(*, tied: bool = False) -> LlamaForCausalLM:
    """The same each time, with biases at the attention and linears of six shapes."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=True,
            tie_word_embeddings=tied,
        )
    ).eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not (tied and name == "lm_head"):
            module.weight.data *= 8
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return model


def base_of(model: LlamaForCausalLM) -> RandomBase:
    """The model's weights, which are also what they were before quantisation."""
    linears = {
        name: module.weight.data
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    return RandomBase.of(model, originals=linears)


@dataclass(frozen=True)
class Written:
    """An adapter with random weights, as PEFT wrote it and as PEFT reads it again."""

    config: dict[str, object]
    weights: bytes
    oracle: PeftModel

    @property
    def config_bytes(self) -> bytes:
        return json.dumps(self.config).encode()

    def put(self, store: AdapterStore, name: str = "one", **how: object) -> Adapter:
        return put_bytes(store, self.config_bytes, self.weights, name=name, **how)


def write(config: PeftConfig, directory: Path, *, size: float = 0.2, seed: int = 7) -> Written:
    """`config`'s adapter on `tiny_llama`, each trained tensor changed at random by about `size`."""
    return write_on(tiny_llama, config, directory, size=size, seed=seed)


def write_on(
    make_model: Callable[[], LlamaForCausalLM],
    config: PeftConfig,
    directory: Path,
    *,
    size: float = 0.2,
    seed: int = 7,
) -> Written:
    """As `write`, on another model."""
    model = get_peft_model(make_model(), config, autocast_adapter_dtype=False)
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=random) * size
    model.save_pretrained(str(directory))
    # Loaded again: what the files mean is what PEFT makes of them.
    oracle = PeftModel.from_pretrained(make_model(), str(directory))
    return Written(
        json.loads((directory / CONFIG_FILE).read_bytes()),
        (directory / WEIGHTS_FILE).read_bytes(),
        oracle.eval(),
    )


def adapted_modules(oracle: PeftModel) -> Iterator[tuple[str, nn.Module]]:
    """Path and PEFT's module of every linear it has wrapped."""
    for name, module in oracle.named_modules():
        if hasattr(module, "base_layer"):
            yield name.removeprefix("base_model.model."), module


def linear_output(base: RandomBase, module: str, parts: SiteParts, x: Tensor) -> Tensor:
    """The one formula of `motet_kernels.LowRank`, densely."""
    found: Mapping[str, Tensor] = parts.tensors
    one = torch.ones(())
    z = x * found.get("in_gain", one)
    a = found.get("a", torch.zeros(0, z.shape[1]))
    bt = found.get("bt", torch.zeros(0, base.shape(module)[0]))
    u = z @ a.t()
    if "core_values" in found:
        u = (found["core_values"] * u[:, found["core_columns"].long()]).sum(dim=-1)
    u = activated(u + found.get("inner_bias", 0 * one), parts.activation)  # type: ignore[arg-type]
    y = z @ base.weight(module).t()
    y = y + found.get("delta_gain", one) * (u @ bt)
    y = y * found.get("gain", one) + found.get("bias", 0 * one)
    bias = base.bias(module)
    return y if bias is None else y + bias


def require_equal(
    store: AdapterStore, base: RandomBase, oracle: PeftModel, adapter: Adapter
) -> None:
    """Raises AssertionError unless every module computes what PEFT's does, and no other is adapted.

    The base's own biases are added after the gain, as the kernels do.
    """
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    adapted = dict(adapted_modules(oracle))
    assert set(views) == set(adapted)
    random = torch.Generator().manual_seed(3)
    for name, module in adapted.items():
        x = torch.randn(5, base.shape(name)[1], generator=random)
        with torch.no_grad():
            expected = module(x)
            plain = module.base_layer(x)
        assert (expected - plain).abs().max() > 1e-2 * plain.abs().max(), f"{name} does nothing"
        y = linear_output(base, name, views[name], x)
        assert (y - expected).abs().max() <= TOLERANCE * expected.abs().max(), name
