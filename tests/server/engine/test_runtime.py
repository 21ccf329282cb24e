"""What the runtime tells its parts of the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from motet.engine import runtime as runtime_module
from motet_adapters import AdapterStore

from tests.support.serving import served
from tests.support.tiny_models import make_checkpoint


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_are_page_locked_where_they_are_copied_to_a_gpu(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reached(Exception):
        pass

    asked = []

    def store(*arguments: Any, pin_memory: bool, **others: Any) -> AdapterStore:
        asked.append(pin_memory)
        raise Reached

    def on_cpu(*arguments: Any, **others: Any) -> Any:
        return model(*arguments, **(others | {"device": torch.device("cpu")}))

    model = runtime_module.PagedModel
    cpu = runtime_module.select_kernels(torch.device("cpu"))
    monkeypatch.setattr(runtime_module, "_device", lambda _settings: torch.device(device))
    monkeypatch.setattr(runtime_module, "select_kernels", lambda *_, **__: cpu)
    monkeypatch.setattr(runtime_module, "PagedModel", on_cpu)
    monkeypatch.setattr(runtime_module, "AdapterStore", store)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama")
    with pytest.raises(Reached), served(checkpoint, tmp_path / "data"):
        pass
    assert asked == [device == "cuda"]
