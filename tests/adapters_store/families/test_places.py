"""Adapters on embeddings, output heads, norms and tokens: lowered, they compute what PEFT does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from motet_adapters.image import SiteParts
from peft import LNTuningConfig, LoraConfig, PeftConfig, PeftModel, TrainableTokensConfig
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from tests.support.adapter_files import CONFIG_FILE, PREFIX, WEIGHTS_FILE, put_bytes
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import TOLERANCE, tiny_llama, write_on

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
IDS = torch.tensor([3, 5, 7, 3, 63, 0])


def config(**values: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | values)


CASES: dict[str, PeftConfig] = {
    "embedding": config(target_modules=["embed_tokens"]),
    "embedding-dora": config(target_modules=["embed_tokens"], use_dora=True, use_rslora=True),
    "head": config(target_modules=["lm_head"], rank_pattern={"lm_head": 3}),
    "head-dora": config(target_modules=["lm_head"], use_dora=True),
    "both": config(target_modules=["embed_tokens", "lm_head"], alpha_pattern={"lm_head": 2}),
    "saved": config(
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens", "lm_head", "input_layernorm", "model.norm"],
    ),
    "saved-not-adapted": config(
        target_modules=["q_proj", "embed_tokens", "lm_head"],
        modules_to_save=["embed_tokens", "lm_head"],
    ),
    "saved-head": config(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "saved-embedding": config(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "tokens": config(target_modules=["q_proj"], trainable_token_indices=[7, 3]),
    "tokens-of-both": config(
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [7, 3], "lm_head": [5, 3]},
    ),
    "tokens-alone": TrainableTokensConfig(token_indices=[63, 5], task_type="CAUSAL_LM"),
    "norms": LNTuningConfig(
        target_modules=["input_layernorm", "model.norm"], task_type="CAUSAL_LM"
    ),
}
# With a tied head PEFT does more by itself.
TIED: dict[str, PeftConfig] = {
    "tied embedding": config(target_modules=["embed_tokens"]),
    "tied head": config(target_modules=["lm_head"]),
    "tied for sure": config(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "tied and saved": config(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "tied and head saved": config(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "tied and saved for sure": config(
        target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "tied tokens": config(target_modules=["q_proj"], trainable_token_indices=[7, 3]),
    "tied tokens of both": config(
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [7, 3], "lm_head": [7, 3]},
    ),
    "tied tokens that differ": config(
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [7, 3], "lm_head": [5, 3]},
    ),
    "tied tokens alone": TrainableTokensConfig(token_indices=[63, 5], task_type="CAUSAL_LM"),
}


def model_of(name: str) -> LlamaForCausalLM:
    return tiny_llama(tied=name in TIED)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request: pytest.FixtureRequest) -> RandomBase:
    return RandomBase.of(tiny_llama(tied=request.param))


@pytest.fixture(scope="module")
def store(base: RandomBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


@pytest.mark.parametrize("name", [*CASES, *TIED])
def test_places_equal_peft(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str
) -> None:
    is_tied = base.head()[2]
    if is_tied != (name in TIED):
        pytest.skip("of the other base")
    written = write_on(lambda: tiny_llama(tied=is_tied), (CASES | TIED)[name], tmp_path)
    adapter = written.put(store, name="places")
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    places = {EMBEDDING, HEAD, *base.norms()}
    changed = {path for path in places if _changes(written.oracle, base, path)}
    assert changed == places & views.keys()
    for path in changed:
        expected = _run(written.oracle, path, base)
        found = _formula(views[path], path, base)
        assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max(), path


def _input(path: str, base: RandomBase) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return IDS if path == EMBEDDING else torch.randn(5, base.hidden_size, generator=random)


def _run(oracle: PeftModel, path: str, base: RandomBase) -> Tensor:
    module: nn.Module = oracle.get_submodule(f"{PREFIX}{path}")
    with torch.no_grad():
        result: Tensor = module(_input(path, base))
    return result


def _plain(path: str, base: RandomBase, weight: Tensor) -> Tensor:
    x = _input(path, base)
    if path == EMBEDDING:
        return weight[x]
    if path == HEAD:
        return x @ weight.t()
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def _changes(oracle: PeftModel, base: RandomBase, path: str) -> bool:
    plain = _plain(path, base, base.dense(path))
    return bool((_run(oracle, path, base) - plain).abs().max() > 1e-3 * plain.abs().max())


def _formula(parts: SiteParts, path: str, base: RandomBase) -> Tensor:
    """What docs/architecture.md says of the parts of these places, densely."""
    found = parts.tensors
    weight = found.get("weight", base.dense(path)).clone()
    if "rows" in found:
        assert found["rows_index"].tolist() == sorted(found["rows_index"].tolist())
        weight[found["rows_index"]] = found["rows"]
    y = _plain(path, base, weight)
    if path == EMBEDDING and "at" in found:
        y = y + found["at"][IDS] @ found["bt"]
    if "a" in found:
        y = y + _input(path, base) @ found["a"].t() @ found["bt"]
    return y * found.get("gain", torch.ones(()))


def test_a_copy_that_is_not_the_base_is_refused(
    store: AdapterStore, base: RandomBase, tmp_path: Path
) -> None:
    """PEFT saves the embedding beside an adapter on it; resized or trained, it is no copy."""
    is_tied = base.head()[2]
    write_on(lambda: tiny_llama(tied=is_tied), config(target_modules=["embed_tokens"]), tmp_path)
    tensors = load((tmp_path / WEIGHTS_FILE).read_bytes())
    text = (tmp_path / CONFIG_FILE).read_bytes()
    name = f"{PREFIX}{EMBEDDING}.base_layer.weight"
    rounded = tensors | {name: tensors[name].bfloat16()}
    put_bytes(store, text, save(rounded), name="rounded")
    for other in (tensors[name] * 1.1, tensors[name][:60].clone()):
        with pytest.raises(AdapterRefused, match="vocabulary was resized"):
            put_bytes(store, text, save(tensors | {name: other}), name="other")
