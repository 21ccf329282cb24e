"""`motet tune` on a machine that has nothing to tune."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from motet.cli import tuning
from motet.cli.app import app
from motet.errors import MotetError
from motet_kernels.gpu.architectures import ARCHITECTURES
from motet_kernels.gpu.tuning_files import table_path, tuning_for
from typer.testing import CliRunner


def test_machine_without_a_gpu_is_told_where_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MotetError, match="There is no GPU to tune for"):
        tuning.run(show=False)
    result = CliRunner().invoke(app, ["tune"])
    assert result.exit_code == 2
    assert "There is no GPU to tune for" in result.stderr


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A GPU by its name and figures alone, on which every configuration takes as long."""
    properties = SimpleNamespace(name="Some GPU", multi_processor_count=7, major=9, minor=0)
    monkeypatch.setenv("MOTET_KERNEL_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(tuning.Trials, "seconds", lambda *_: 1.0)
    return properties.name


@pytest.mark.parametrize("keeps", [True, False])
def test_a_table_is_kept_if_rows_keep_their_bits_with_it(
    gpu: str, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def keeps_row_bits(*_: Any, outputs: int, **__: Any) -> bool:
        asked.append(outputs)
        return keeps or len(asked) < 2

    monkeypatch.setattr(tuning, "keeps_row_bits", keeps_row_bits)
    if keeps:
        tuning.run(show=False)
        assert tuning_for(gpu, ARCHITECTURES["sm_90"], 7).origin.startswith("measured: motet tune")
    else:
        with pytest.raises(MotetError, match="other numbers of rows"):
            tuning.run(show=False)
        assert not table_path(gpu).exists()
    assert asked == list(tuning.OUTPUTS)[: None if keeps else 2]
