import os
from collections.abc import Callable
from pathlib import Path

import pytest
from motet.cli.app import app
from typer.testing import CliRunner, Result

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `motet ARGS` in an empty directory and without MOTET_* variables of the machine's."""
    for name in [name for name in os.environ if name.upper().startswith("MOTET_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def invoke(*args: object, **keywords: object) -> Result:
        result = runner.invoke(app, [str(arg) for arg in args], prog_name="motet", **keywords)
        # Only a way out that was chosen is one: a traceback is a fault, whatever the test wants.
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
