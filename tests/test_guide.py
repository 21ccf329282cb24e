"""docs/train-and-serve.md: its training snippet runs as printed and makes an adapter we take."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from motet.engine.base import QuantizedBase
from motet_adapters import AdapterStore, Limits

from tests.support.demo_model import CACHE_DIR, demo_base

GUIDE = Path(__file__).parents[1] / "docs" / "train-and-serve.md"
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def base() -> QuantizedBase:
    return demo_base()


@pytest.fixture(scope="module")
def trained(base: QuantizedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory the first Python snippet of the guide saves to, after three steps of it."""
    directory = tmp_path_factory.mktemp("guide")
    snippet = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]
    environment = os.environ | {"MAX_STEPS": "3", "MOTET_DATA_DIR": str(CACHE_DIR)}
    subprocess.run([sys.executable, "-c", snippet], cwd=directory, env=environment, check=True)
    return directory / "ticket-labels"


@pytest.mark.slow
def test_training_snippet_writes_the_two_files(trained: Path) -> None:
    assert all((trained / name).is_file() for name in FILES)


@pytest.mark.slow
def test_store_accepts_what_the_snippet_wrote(
    trained: Path, base: QuantizedBase, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path, base, dtype=torch.float32, limits=Limits(), host_bytes=64 << 20)
    with store.stage() as staging:
        for name in FILES:
            staging.write(name, (trained / name).read_bytes())
        adapter = store.check("tickets", "ticket-labels", staging)
    store.close()
    assert (adapter.kind, adapter.ranks) == ("dora", (8,))
    assert adapter.matched == {"q_proj": 30, "v_proj": 30}
