"""The weights of a base as they were before NF4, and what else of it an adapter may change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from motet.engine.base import QuantizedBase, open_base
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.support.tiny_gguf import write_gguf
from tests.support.tiny_models import make_checkpoint, tiny_model

PATHS = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")


def opened(source: Path, tmp_path: Path) -> QuantizedBase:
    return open_base(str(source), cache_dir=tmp_path / "cache")


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("originals/*"))


@pytest.mark.parametrize("max_shard_size", ["1GB", "40KB"])
def test_one_weight_of_a_directory_is_read_by_itself(tmp_path: Path, max_shard_size: str) -> None:
    base = opened(make_checkpoint(tmp_path / "m", max_shard_size=max_shard_size), tmp_path)
    model = tiny_model("llama")
    for path in PATHS:
        original = base.original(path)
        assert original is not None
        assert original.dtype == torch.float32
        assert torch.equal(original, model.get_submodule(path).weight.float())
        assert not torch.equal(original, base.weight(path))
    assert kept(tmp_path) == []
    with pytest.raises(KeyError):
        base.original("lm_head")


def test_the_weights_of_a_gguf_file_are_read_once_and_kept(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "Tiny.gguf", tiny_model("qwen2"))
    base = opened(file, tmp_path)
    model = tiny_model("qwen2")
    for path in PATHS:
        assert torch.equal(base.original(path), model.get_submodule(path).weight.float())
    (made,) = kept(tmp_path)
    again = opened(file, tmp_path)
    file.unlink()
    assert torch.equal(again.original(PATHS[0]), base.original(PATHS[0]))
    made.write_bytes(made.read_bytes()[:100])
    assert opened_anew(base).original(PATHS[0]) is None


def opened_anew(base: QuantizedBase) -> QuantizedBase:
    """With nothing read yet."""
    originals = base.originals
    fresh = type(originals)(
        originals._source, originals._identity, originals._file, originals._paths
    )
    return QuantizedBase(**{**vars(base), "originals": fresh})


def test_a_source_that_has_changed_since_has_none(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "m")
    base = opened(source, tmp_path)
    make_checkpoint(source, seed=1)
    assert base.original(PATHS[0]) is None


def test_weights_that_came_quantised_have_none(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "m", "mistral", intermediate_size=128)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        source, device_map={"": "cpu"}, quantization_config=settings
    )
    model.save_pretrained(source)
    base = opened(source, tmp_path)
    assert base.original(PATHS[0]) is None


@pytest.mark.parametrize(("name", "is_tied"), [("llama", False), ("gemma2", True)])
def test_the_parts_besides_the_linears(tmp_path: Path, name: str, is_tied: bool) -> None:
    base = opened(make_checkpoint(tmp_path / "m", name), tmp_path)
    parts, model = base.parts, tiny_model(name)
    assert parts.is_tied is is_tied
    assert (parts.embedding.path, parts.head.path) == ("model.embed_tokens", "lm_head")
    assert parts.layers == ("model.layers.0", "model.layers.1")
    assert (parts.num_kv_heads, parts.head_size, parts.hidden_size) == (2, 16, 64)
    for path in (parts.embedding.path, parts.head.path, *parts.norms):
        assert torch.equal(base.dense(path), model.get_submodule(path).weight.float())
    assert parts.norms["model.norm"] == 64
    assert "model.layers.1.post_attention_layernorm" in parts.norms


def test_siblings_share_their_input_once_they_are_known(tmp_path: Path) -> None:
    base = opened(make_checkpoint(tmp_path / "m"), tmp_path)
    groups = (("a.q", "a.k"), ("a.o",))
    known = QuantizedBase(**{**vars(base), "input_groups": groups})
    assert known.shares_input("a.q")
    assert not known.shares_input("a.o")
