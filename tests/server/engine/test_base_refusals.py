"""Bases that cannot be served: one sentence each, which says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine.base import open_base
from motet.errors import UnsupportedModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.support.tiny_models import make_checkpoint
from tests.support.tiny_tokenizer import tiny_tokenizer


def _refusal(source: Path, tmp_path: Path) -> str:
    with pytest.raises(UnsupportedModel) as refused:
        open_base(str(source), cache_dir=tmp_path / "cache")
    return str(refused.value)


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


def test_pickled_weights_are_refused_with_the_way_to_convert_them(
    checkpoint: Path, tmp_path: Path
) -> None:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()

    message = _refusal(checkpoint, tmp_path)

    assert "pickle" in message
    assert "save_pretrained('OUT')" in message


def _no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()


def _no_tokenizer(checkpoint: Path) -> None:
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()


def _config_is_a_list(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("[]")


def _config_is_no_json(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_bytes(b"\xff{")


def _config_of_another_size(checkpoint: Path) -> None:
    _edit(checkpoint / "config.json", lambda content: content.update(intermediate_size=96))


def _config_with_wrong_types(checkpoint: Path) -> None:
    _edit(checkpoint / "config.json", lambda content: content.update(hidden_size="big"))


def _more_layers_than_weights(checkpoint: Path) -> None:
    _edit(checkpoint / "config.json", lambda content: content.update(num_hidden_layers=3))


def _generation_config_is_a_list(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text("[]")


def _an_adapter(checkpoint: Path) -> None:
    (checkpoint / "config.json").rename(checkpoint / "adapter_config.json")


def _an_encoder(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "vit"}))


def _nan(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def _gptq(checkpoint: Path) -> None:
    quantization = {"quant_method": "gptq", "bits": 4}
    _edit(
        checkpoint / "config.json", lambda content: content.update(quantization_config=quantization)
    )


def _index(checkpoint: Path, file: object) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"model.embed_tokens.weight": file}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))


def _missing_shard(checkpoint: Path) -> None:
    _index(checkpoint, "model-00001-of-00002.safetensors")


def _shard_elsewhere(checkpoint: Path) -> None:
    _index(checkpoint, "../other/model.safetensors")


def _pickle_as_shard(checkpoint: Path) -> None:
    _index(checkpoint, "pytorch_model.bin")


def _shard_is_a_number(checkpoint: Path) -> None:
    _index(checkpoint, 7)


def _index_is_a_list(checkpoint: Path) -> None:
    _index(checkpoint, 0)
    (checkpoint / "model.safetensors.index.json").write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_no_weights, "neither model.safetensors nor"),
        (_no_tokenizer, "tokenizer cannot be loaded"),
        (_config_is_a_list, "not a JSON object"),
        (_config_is_no_json, "is not JSON"),
        (_config_of_another_size, "do not fit config.json"),
        (_config_with_wrong_types, "does not accept this config.json"),
        (_more_layers_than_weights, "lacks model.layers.2.input_layernorm.weight"),
        (_generation_config_is_a_list, "not a JSON object"),
        (_an_adapter, "is an adapter, not a base model"),
        (_an_encoder, "does not generate text"),
        (_nan, "model.layers.1.mlp.up_proj holds NaN or infinity"),
        (_gptq, "quantised with gptq"),
        (_missing_shard, "lacks model-00001-of-00002.safetensors"),
        (_shard_elsewhere, "not a safetensors file beside it"),
        (_pickle_as_shard, "not a safetensors file beside it"),
        (_shard_is_a_number, "not a safetensors file beside it"),
        (_index_is_a_list, "not an index"),
    ],
)
def test_a_spoilt_checkpoint_is_refused_in_one_sentence(
    spoil: Callable[[Path], None], sentence: str, checkpoint: Path, tmp_path: Path
) -> None:
    spoil(checkpoint)

    assert sentence in _refusal(checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "fp4"),
        ({"load_in_8bit": True}, "int8"),
    ],
)
def test_other_quantisations_of_bitsandbytes_are_refused(
    settings: dict[str, Any], kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, device_map={"": "cpu"}, quantization_config=BitsAndBytesConfig(**settings)
    )
    model.save_pretrained(tmp_path / "quantised")
    tiny_tokenizer().save_pretrained(tmp_path / "quantised")

    assert f"bitsandbytes {kind}" in _refusal(tmp_path / "quantised", tmp_path)


def test_a_gguf_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    assert "no file" in _refusal(file, tmp_path)
    file.write_bytes(b"GGUF" + bytes(100))
    assert "cannot read x.gguf" in _refusal(file, tmp_path)


def test_a_source_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    assert "single file that is no .gguf" in _refusal(tmp_path / "model.onnx", tmp_path)
    assert "neither a directory" in _refusal(tmp_path / "missing", tmp_path)
