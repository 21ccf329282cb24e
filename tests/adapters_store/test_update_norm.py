"""An update that drowns its weight is served, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterStore, Limits
from motet_adapters.update_norm import Update, warnings_about

from tests.support.adapter_files import random_adapter
from tests.support.base_weights import RandomBase

MODULE = "model.layers.0.self_attn.q_proj"


def test_the_size_of_an_update_is_that_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 20, generator=generator)
    b = torch.randn(12, 3, generator=generator)
    assert Update.of(MODULE, a, b).rms == pytest.approx(float((b @ a).square().mean().sqrt()))
    assert Update.of(MODULE, a, b * 0).rms == 0.0


def test_ten_times_its_weight_is_warned_of() -> None:
    base = RandomBase.llama(layers=1)
    usual = float(base.weight(MODULE).square().mean().sqrt())
    assert warnings_about(Update(9 * usual, MODULE), base) == ()
    (sentence,) = warnings_about(Update(40 * usual, MODULE), base)
    assert MODULE in sentence
    assert "40 times" in sentence


@pytest.mark.parametrize(("size", "number"), [(1e-3, 0), (1e3, 1)])
def test_an_upload_is_accepted_with_the_warning(tmp_path: Path, size: float, number: int) -> None:
    base = RandomBase.llama(layers=1)
    store = AdapterStore(tmp_path, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    files = random_adapter(base)
    for name, tensor in files.tensors.items():
        if "lora_B" in name:
            tensor.mul_(size)
    adapter = files.put(store)
    assert len(adapter.warnings) == number
    assert store.get("acme", "one").warnings == adapter.warnings
    assert store.image(adapter.digest).num_bytes > 0
    store.close()
