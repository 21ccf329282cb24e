"""Checkpoints that try to run code: it never runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine.base import open_base
from motet.errors import UnsupportedModel

from tests.support.tiny_models import make_checkpoint


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.fixture
def tripwire(checkpoint: Path) -> Path:
    """A file that comes into being when Python code of the checkpoint is run."""
    sprung = checkpoint.parent / "sprung"
    code = f"open({str(sprung)!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n"
    for name in ("configuration_evil.py", "modeling_evil.py", "tokenization_evil.py"):
        (checkpoint / name).write_text(code)
    return sprung


_AUTO_MAP = {
    "AutoConfig": "configuration_evil.Config",
    "AutoModelForCausalLM": "modeling_evil.Model",
    "AutoTokenizer": ["tokenization_evil.Config", None],
}


def test_a_known_architecture_is_served_without_its_own_code(
    checkpoint: Path, tripwire: Path, tmp_path: Path
) -> None:
    clean = open_base(str(checkpoint), cache_dir=tmp_path / "cache").fingerprint
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        _edit(checkpoint / name, lambda content: content.update(auto_map=_AUTO_MAP))
    _edit(
        checkpoint / "config.json",
        lambda content: content.update(
            _attn_implementation="someone/kernel",
            _attn_implementation_internal="someone/kernel",
            attn_implementation="someone/kernel",
            _experts_implementation_internal="someone/kernel",
            transformers_weights="pytorch_model.bin",
            fusion_config={"patch_embeddings": True},
        ),
    )
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04no pickle is opened")
    _edit(
        checkpoint / "generation_config.json",
        lambda content: content.update(custom_generate="someone/loop"),
    )

    base = open_base(str(checkpoint), cache_dir=tmp_path / "cache")

    assert base.fingerprint == clean
    assert not tripwire.exists()
    assert base.build_model(torch.float32, "eager").config._attn_implementation == "eager"
    for file in base.directory.glob("*.json"):
        assert "evil" not in file.read_text()
        assert "someone/" not in file.read_text()
    assert not list(base.directory.glob("*.py"))


def test_an_unknown_architecture_is_refused_without_running_it(
    checkpoint: Path, tripwire: Path, tmp_path: Path
) -> None:
    _edit(
        checkpoint / "config.json",
        lambda content: content.update(auto_map=_AUTO_MAP, model_type="evil"),
    )

    with pytest.raises(UnsupportedModel, match=r"'evil' is not one transformers ships"):
        open_base(str(checkpoint), cache_dir=tmp_path / "cache")
    assert not tripwire.exists()
