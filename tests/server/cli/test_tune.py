"""`motet tune` on a machine that has nothing to tune."""

import pytest
import torch
from motet.cli import tuning
from motet.cli.app import app
from motet.errors import MotetError
from typer.testing import CliRunner


def test_machine_without_a_gpu_is_told_where_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MotetError, match="There is no GPU to tune for"):
        tuning.run(show=False)
    result = CliRunner().invoke(app, ["tune"])
    assert result.exit_code == 2
    assert "There is no GPU to tune for" in result.stderr
