"""An adapter in a plain checkpoint's weights answers as the adapter does, or is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine.base import QuantizedBase, open_base
from motet.engine.merging import CannotMerge, merge
from motet_adapters import AdapterStore, Limits
from motet_adapters.image import Views
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.support.dense_model import dense_model
from tests.support.family_cases import make, names, written
from tests.support.peft_adapters import logits
from tests.support.tiny_models import make_checkpoint
from tests.support.unstacked_experts import MIXTRAL, write_unstacked

IDS = [7, 90, 91, 200, 11, 40, 33]
PREFIXES = {"prompt-tuning", "p-tuning", "cpt", "prefix-tuning", "cartridge"}
NOT_WEIGHTS = {"alora"}  # told by the command, from the adapter
NO_BIAS_THERE = {"beft", "lora-bias"}  # gate_proj and the like have none in this model
ON_OUTPUTS = {"bottleneck", "pfeiffer"}
REFUSED = PREFIXES | NO_BIAS_THERE | ON_OUTPUTS
MERGED = [name for name in names() if name not in REFUSED | NOT_WEIGHTS]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("merge") / "checkpoint"
    return make_checkpoint(directory, "llama", attention_bias=True)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def base(checkpoint: Path, data_dir: Path) -> QuantizedBase:
    return open_base(str(checkpoint), cache_dir=data_dir)


@pytest.fixture(scope="module")
def plain(base: QuantizedBase) -> PreTrainedModel:
    return dense_model(base)


@pytest.fixture(scope="module")
def store(base: QuantizedBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    opened = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 26)
    yield opened
    opened.close()


def views(store: AdapterStore, directory: Path) -> Views:
    with store.stage() as staging:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            staging.write(file, (directory / file).read_bytes())
        adapter = store.put("acme", directory.name, staging)
    image = store.image(adapter.digest)
    return image.views(image.buffer)


@pytest.mark.parametrize("name", MERGED)
def test_the_merged_model_is_the_adapted_one(
    store: AdapterStore, base: QuantizedBase, plain: PreTrainedModel, tmp_path: Path, name: str
) -> None:
    truth = make(name, base, plain, tmp_path / name)
    model = copy.deepcopy(plain)
    merge(model, views(store, truth.directory))
    expected, before = logits(truth.oracle, IDS), logits(plain, IDS)
    actual = logits(model, IDS)
    assert (actual - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert (actual - before).abs().max() > 1e-2 * before.abs().max()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_no_change_of_weights_is_refused(
    store: AdapterStore, base: QuantizedBase, plain: PreTrainedModel, tmp_path: Path, name: str
) -> None:
    truth = make(name, base, plain, tmp_path / name)
    with pytest.raises(CannotMerge, match="serve it as an adapter"):
        merge(copy.deepcopy(plain), views(store, truth.directory))


@pytest.mark.parametrize("original", [False, True])
def test_the_command_writes_a_plain_checkpoint(
    run: Callable[..., Any],
    checkpoint: Path,
    data_dir: Path,
    base: QuantizedBase,
    plain: PreTrainedModel,
    tmp_path: Path,
    original: bool,
) -> None:
    truth = make("dora", base, plain, tmp_path / "dora")
    out = tmp_path / "out"
    flags = ["--original"] if original else []
    result = run("merge", checkpoint, truth.directory, out, "--data-dir", data_dir, *flags)
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert len(AutoTokenizer.from_pretrained(out)) > 100
    expected = logits(truth.oracle, IDS)
    error = (logits(model, IDS) - expected).abs().max() / expected.abs().max()
    # Rounded to bf16; on the original weights it differs by what quantising does.
    assert error < 0.05 if not original else 0.01 < error < 1
    again = run("merge", checkpoint, truth.directory, out, "--data-dir", data_dir)
    assert again.exit_code != 0
    assert "is not empty" in again.stderr


def test_the_command_refuses_what_cannot_be_merged(
    run: Callable[..., Any],
    checkpoint: Path,
    data_dir: Path,
    base: QuantizedBase,
    plain: PreTrainedModel,
    tmp_path: Path,
) -> None:
    truth = make("alora", base, plain, tmp_path / "alora")
    out = tmp_path / "out"
    result = run("merge", checkpoint, truth.directory, out, "--data-dir", data_dir)
    assert result.exit_code != 0
    assert "aLoRA" in result.stderr
    assert not out.exists()


def test_a_tied_head_gets_a_weight_of_its_own(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "tied", "llama_tied")
    base = open_base(str(checkpoint), cache_dir=tmp_path / "data")
    plain = dense_model(base)
    truth = make("embedding", base, plain, tmp_path / "embedding")
    store = AdapterStore(
        tmp_path / "store", base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 26
    )
    model = copy.deepcopy(plain)
    merge(model, views(store, truth.directory))
    store.close()
    expected = logits(truth.oracle, IDS)
    assert (logits(model, IDS) - expected).abs().max() <= 1e-3 * expected.abs().max()
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert (logits(again, IDS) - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_adapters_on_experts_are_merged(tmp_path: Path, name: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "mixture", name)
    base = open_base(str(checkpoint), cache_dir=tmp_path / "data")
    plain = dense_model(base)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "gate"],  # the router
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
        task_type="CAUSAL_LM",
    )
    oracle = written(config, plain, tmp_path / "experts", seed=3)
    store = AdapterStore(
        tmp_path / "store", base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 26
    )
    model = copy.deepcopy(plain)
    merge(model, views(store, tmp_path / "experts"))
    store.close()
    expected, before = logits(oracle, IDS), logits(plain, IDS)
    assert (logits(model, IDS) - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert (expected - before).abs().max() > 1e-2 * before.abs().max()


def test_single_experts_are_stacked_and_merged(tmp_path: Path) -> None:
    """Of Mixtral, whose modules have other names since transformers 5."""
    checkpoint = make_checkpoint(tmp_path / "mixture", "mixtral")
    base = open_base(str(checkpoint), cache_dir=tmp_path / "data")
    plain, directory = dense_model(base), tmp_path / "old"
    write_unstacked(plain, directory, MIXTRAL, ["q_proj", "gate", *MIXTRAL[1]])
    oracle = PeftModel.from_pretrained(copy.deepcopy(plain), str(directory)).eval()
    store = AdapterStore(
        tmp_path / "store", base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 26
    )
    model = copy.deepcopy(plain)
    merge(model, views(store, directory))
    store.close()
    expected = logits(oracle, IDS)
    assert (logits(model, IDS) - expected).abs().max() <= 1e-3 * expected.abs().max()
