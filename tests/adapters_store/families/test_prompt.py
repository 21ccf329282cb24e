"""Virtual tokens: an image holds what PEFT hands to the model, or the upload is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from motet_adapters.families.family import Family
from motet_adapters.families.prompt import (
    CARTRIDGE,
    CPT,
    P_TUNING,
    PREFIX_TUNING,
    PROMPT_TUNING,
)
from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft.tuners import CartridgeConfig
from peft.tuners.cpt import CPTConfig

from tests.support.adapter_files import AdapterFiles
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import base_of, tiny_llama, write

CAUSAL = {"task_type": "CAUSAL_LM"}
EMBEDDINGS: dict[str, PeftConfig] = {
    "prompt-tuning": PromptTuningConfig(num_virtual_tokens=5, **CAUSAL),
    "p-tuning": PromptEncoderConfig(num_virtual_tokens=6, encoder_hidden_size=24, **CAUSAL),
    "p-tuning-lstm": PromptEncoderConfig(
        num_virtual_tokens=6,
        encoder_hidden_size=24,
        encoder_reparameterization_type="LSTM",
        **CAUSAL,
    ),
    "cpt": CPTConfig(
        cpt_token_ids=[5, 6, 7], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 3], **CAUSAL
    ),
}
KEYS: dict[str, PeftConfig] = {
    "prefix-tuning": PrefixTuningConfig(num_virtual_tokens=7, **CAUSAL),
    "prefix-tuning-projected": PrefixTuningConfig(
        num_virtual_tokens=7, prefix_projection=True, encoder_hidden_size=24, **CAUSAL
    ),
    "cartridge": CartridgeConfig(num_virtual_tokens=6, **CAUSAL),
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


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_are_what_peft_puts_before_the_prompt(
    store: AdapterStore, tmp_path: Path, name: str
) -> None:
    written = write(EMBEDDINGS[name], tmp_path)
    adapter = written.put(store, name)
    image = store.image(adapter.digest)
    expected = written.oracle.get_prompt(batch_size=1)[0]
    assert adapter.num_virtual_tokens == len(expected)
    assert torch.equal(image.views(image.buffer)["prefix"].tensors["embeddings"], expected)


@pytest.mark.parametrize("name", KEYS)
def test_keys_and_values_are_what_peft_puts_in_the_cache(
    store: AdapterStore, tmp_path: Path, name: str
) -> None:
    written = write(KEYS[name], tmp_path)
    adapter = written.put(store, name)
    image = store.image(adapter.digest)
    tensors = image.views(image.buffer)["prefix"].tensors
    layers = written.oracle.get_prompt(batch_size=1).layers
    assert len(tensors) == 2 * len(layers)
    for index, layer in enumerate(layers):
        # PEFT's are [1, Hkv, P, D]
        assert torch.equal(tensors[f"keys.{index}"], layer.keys[0].transpose(0, 1))
        assert torch.equal(tensors[f"values.{index}"], layer.values[0].transpose(0, 1))
    assert adapter.num_virtual_tokens == layers[0].keys.shape[2]


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (PROMPT_TUNING, EMBEDDINGS["prompt-tuning"]),
        (P_TUNING, EMBEDDINGS["p-tuning"]),
        (CPT, EMBEDDINGS["cpt"]),
        (PREFIX_TUNING, KEYS["prefix-tuning"]),
        (CARTRIDGE, KEYS["cartridge"]),
    ],
)
def test_every_key_of_pefts_config_is_known(family: Family, config: PeftConfig) -> None:
    assert family.keys is not None
    known = family.keys.served | family.keys.harmless | family.keys.refused.keys()
    assert set(config.to_dict()) <= known


def prompt_files() -> AdapterFiles:
    config: dict[str, object] = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3, **CAUSAL}
    return AdapterFiles(config, {"prompt_embeddings": torch.randn(3, 64)})


def prefix_files() -> AdapterFiles:
    """For two layers of two heads of 16."""
    config: dict[str, object] = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": 3,
        "num_layers": 2,
        "num_attention_heads": 2,
        "token_dim": 32,
        **CAUSAL,
    }
    return AdapterFiles(config, {"prompt_embeddings": torch.randn(3, 2 * 2 * 32)})


@pytest.mark.parametrize("files", [prompt_files, prefix_files])
def test_the_files_bent_below_are_served(
    store: AdapterStore, files: Callable[[], AdapterFiles]
) -> None:
    assert files().put(store).num_virtual_tokens == 3


@pytest.mark.parametrize(
    ("files", "key", "value", "message"),
    [
        (prompt_files, "task_type", None, "leaves virtual tokens out"),
        (prompt_files, "num_virtual_tokens", None, "whole number"),
        (prompt_files, "num_virtual_tokens", 0, "whole number"),
        (prompt_files, "num_virtual_tokens", True, "whole number"),
        (prompt_files, "num_virtual_tokens", 4, r"has shape \[3, 64\].*needs \[4, 64\]"),
        (prompt_files, "token_dim", 128, "this base needs 64"),
        (prompt_files, "num_transformer_submodules", 2, "this base needs 1"),
        (prompt_files, "modules_to_save", ["lm_head"], "served alone"),
        (prompt_files, "encoder_hidden_size", 4, "does not know"),
        (prompt_files, "peft_type", "MULTITASK_PROMPT_TUNING", "multitask prompt tuning is not"),
        (prompt_files, "task_type", "SEQ_CLS", "generates text"),
        (prefix_files, "num_layers", 3, "this base needs 2"),
        (prefix_files, "num_attention_heads", 4, "this base needs 2"),
        (prefix_files, "num_attention_heads", True, "this base needs 2"),
        (prefix_files, "token_dim", 64, "this base needs 32"),
        (prefix_files, "num_virtual_tokens", 6, "has shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    store: AdapterStore,
    files: Callable[[], AdapterFiles],
    key: str,
    value: object,
    message: str,
) -> None:
    bent = files()
    bent.config[key] = value
    with pytest.raises(AdapterRefused, match=message):
        bent.put(store, name="bent")


def test_tensors_besides_are_refused(store: AdapterStore) -> None:
    bent = prompt_files()
    bent.tensors["prefix_task_cols"] = torch.randn(2, 3)
    with pytest.raises(AdapterRefused, match="prefix_task_cols"):
        bent.put(store, name="bent")


def test_values_that_are_not_finite_are_refused(store: AdapterStore) -> None:
    bent = prefix_files()
    bent.tensors["prompt_embeddings"][1, 5] = float("nan")
    with pytest.raises(AdapterRefused, match="NaN"):
        bent.put(store, name="bent")
