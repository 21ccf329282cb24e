"""A quantised base on disk: built once, complete or not there at all."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from motet.engine.base import QuantizedBase, open_base
from motet.errors import UnsupportedModel

from tests.support.dense_model import dense_model, logits
from tests.support.tiny_models import make_checkpoint


def _open(source: Path, tmp_path: Path) -> QuantizedBase:
    return open_base(str(source), cache_dir=tmp_path / "cache")


def test_a_second_opening_does_no_work(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    done: list[tuple[str, float]] = []

    def note(doing: str, fraction: float) -> None:
        done.append((doing, fraction))

    first = open_base(str(source), cache_dir=tmp_path / "cache", progress=note)
    fractions = [fraction for _, fraction in done]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any("q_proj" in doing for doing, _ in done)

    done.clear()
    second = open_base(str(source), cache_dir=tmp_path / "cache", progress=note)
    assert done == []
    assert second.fingerprint == first.fingerprint
    assert torch.equal(logits(dense_model(second)), logits(dense_model(first)))


def test_a_changed_checkpoint_is_quantised_anew(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    before = _open(source, tmp_path)
    shutil.rmtree(source)
    make_checkpoint(source, seed=1)

    after = _open(source, tmp_path)

    assert after.fingerprint != before.fingerprint
    assert after.directory != before.directory


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _flip_last_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _overwrite(file: Path) -> None:
    file.write_text("{")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("linears.safetensors", _truncate),
        ("linears.safetensors", _flip_last_byte),
        ("dense.safetensors", Path.unlink),
        ("config.json", _overwrite),
        ("tokenizer.json", _truncate),
        ("manifest.json", _overwrite),
        ("manifest.json", Path.unlink),
    ],
)
def test_a_damaged_cache_is_built_again(
    file: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    before = _open(source, tmp_path)
    expected = logits(dense_model(before))
    damage(before.directory / file)

    after = _open(source, tmp_path)

    assert after.directory == before.directory
    assert after.fingerprint == before.fingerprint
    assert torch.equal(logits(dense_model(after)), expected)


def test_a_copied_cache_is_taken_as_it_is(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    base = _open(source, tmp_path)
    for file in base.directory.iterdir():  # as in an image built from another machine's cache
        os.utime(file, (0, 0))
    written = (base.directory / "linears.safetensors").stat().st_ino

    again = _open(source, tmp_path)

    assert (again.directory / "linears.safetensors").stat().st_ino == written


def test_a_build_that_died_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    base = _open(source, tmp_path)
    root = base.directory.parent
    base.directory.rename(root / ".building-killed")
    (root / ".building-killed" / "manifest.json").unlink()

    _open(source, tmp_path)

    assert {entry.name for entry in root.iterdir()} == {".lock", base.directory.name}


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    _truncate(source / "model.safetensors")

    with pytest.raises(UnsupportedModel, match="not a whole safetensors file"):
        _open(source, tmp_path)

    assert {entry.name for entry in (tmp_path / "cache" / "bases").iterdir()} == {".lock"}


def test_openings_at_once_build_once(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    builds: list[str] = []

    def note(doing: str, fraction: float) -> None:
        if fraction == 1.0:
            builds.append(doing)

    def work() -> None:
        open_base(str(source), cache_dir=tmp_path / "cache", progress=note)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(builds) == 1
