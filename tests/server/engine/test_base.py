"""Opening a base: quantised right, built right, whatever form it comes in."""

import json
from pathlib import Path

import pytest
import torch
from motet.engine.base import QuantizedBase, open_base
from motet_kernels.nf4 import Nf4Weight
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.support.dense_model import dense_model, logits
from tests.support.tiny_gguf import write_gguf
from tests.support.tiny_models import SERVED, make_checkpoint, tiny_model
from tests.support.tiny_tokenizer import tiny_tokenizer


def _open(source: Path, tmp_path: Path, *, double_quant: bool = False) -> QuantizedBase:
    return open_base(str(source), cache_dir=tmp_path / "cache", double_quant=double_quant)


def _same_linears(one: QuantizedBase, other: QuantizedBase) -> bool:
    return list(one.linears) == list(other.linears) and all(
        torch.equal(one.linears[path].codes, other.linears[path].codes)
        and torch.equal(one.linears[path].absmax, other.linears[path].absmax)
        and one.linears[path].shape == other.linears[path].shape
        for path in one.linears
    )


@pytest.mark.parametrize("name", SERVED)
def test_the_built_model_computes_what_transformers_does_on_quantised_weights(
    name: str, tmp_path: Path
) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", name)
    base = _open(source, tmp_path)

    expected = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, attn_implementation="eager"
    )
    head = expected.get_output_embeddings()
    linears = {
        path: module
        for path, module in expected.named_modules()
        if type(module) is nn.Linear and module is not head
    }
    for module in linears.values():
        module.weight.data = Nf4Weight.quantize(module.weight.data).dequantize(torch.float32)

    assert base.modules() == tuple(linears)
    assert torch.equal(logits(dense_model(base)), logits(expected.float()))


def test_the_built_model_has_no_weights_in_the_linears_places(tmp_path: Path) -> None:
    base = _open(make_checkpoint(tmp_path / "checkpoint", "llama_tied"), tmp_path)
    model = base.build_model(torch.bfloat16, "sdpa")

    assert not model.training
    assert model.generation_config.eos_token_id == [2]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad
        assert parameter.dtype == torch.bfloat16
        assert not parameter.is_meta
        assert not any(name.startswith(path) for path in base.modules())
    with pytest.raises(RuntimeError, match=r"q_proj was run before"):
        logits(model)


def test_tensors_transformers_keeps_in_float32_stay_so(tmp_path: Path) -> None:
    base = _open(make_checkpoint(tmp_path / "checkpoint"), tmp_path)
    dense = base.directory / "dense.safetensors"
    tensors = load_file(dense)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, dense)

    model = base.build_model(torch.bfloat16, "eager")

    assert model.model.norm.weight.dtype == torch.float32
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_the_adapter_store_sees_the_weight_that_runs(tmp_path: Path) -> None:
    base = _open(make_checkpoint(tmp_path / "checkpoint", "llama_odd"), tmp_path)
    path = "model.layers.1.mlp.up_proj"

    assert base.shape(path) == (100, 72)
    assert torch.equal(base.weight(path), base.linears[path].dequantize(torch.float32))
    assert base.weight(path).dtype == torch.float32
    assert base.biases[path].shape == (100,)
    assert "lm_head" not in base.modules()
    for missing in ("lm_head", "model.layers.9.mlp.up_proj"):
        with pytest.raises(KeyError):
            base.shape(missing)
        with pytest.raises(KeyError):
            base.weight(missing)


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    single = make_checkpoint(tmp_path / "single")
    sharded = make_checkpoint(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2

    assert _open(sharded, tmp_path).fingerprint == _open(single, tmp_path).fingerprint


def test_a_gguf_file_is_the_model_it_was_made_from(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "Tiny.gguf", tiny_model("qwen2"))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/other"}')

    base = _open(file, tmp_path)

    assert base.name == "Tiny"
    assert _same_linears(base, _open(make_checkpoint(tmp_path / "checkpoint", "qwen2"), tmp_path))
    assert len(base.biases) == 6


def _prequantized(directory: Path, **settings: object) -> Path:
    """What a user gets from transformers with a BitsAndBytesConfig and save_pretrained."""
    original = make_checkpoint(directory.with_name(directory.name + "-original"), "qwen2")
    config = BitsAndBytesConfig(**settings)
    model = AutoModelForCausalLM.from_pretrained(
        original, dtype=torch.bfloat16, device_map={"": "cpu"}, quantization_config=config
    )
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("storage", ["uint8", "bfloat16"])
def test_a_quantised_checkpoint_is_taken_over_bit_for_bit(
    nested: bool, storage: str, tmp_path: Path
) -> None:
    source = _prequantized(
        tmp_path / "nf4",
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_quant_storage=storage,
    )
    stored = load_file(source / "model.safetensors")
    fresh = _open(tmp_path / "nf4-original", tmp_path, double_quant=nested)

    base = _open(source, tmp_path)

    for path in base.modules():
        codes = stored[f"{path}.weight"].view(torch.uint8).reshape(-1, 1)
        assert torch.equal(base.linears[path].codes, codes)
    assert _same_linears(base, fresh)
    assert base.fingerprint == fresh.fingerprint


def test_double_quantisation_is_another_base(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    plain, double = _open(source, tmp_path), _open(source, tmp_path, double_quant=True)

    assert plain.fingerprint != double.fingerprint
    path = plain.modules()[0]
    assert torch.equal(plain.linears[path].codes, double.linears[path].codes)
    assert not torch.equal(plain.linears[path].absmax, double.linears[path].absmax)


def test_the_manifest_tells_where_a_base_came_from(tmp_path: Path) -> None:
    base = _open(make_checkpoint(tmp_path / "checkpoint"), tmp_path)
    manifest = json.loads((base.directory / "manifest.json").read_text())

    assert manifest["source"] == "checkpoint directory checkpoint"
    assert manifest["fingerprint"] == base.fingerprint
    assert len(base.fingerprint) == 64
    assert manifest["linears"]["model.layers.0.self_attn.k_proj"] == [32, 64]
