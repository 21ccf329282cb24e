"""Uploads of a few bytes that would ask for hours or gigabytes are refused before any is spent."""

from collections.abc import Iterator

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from torch import Tensor

from tests.support.adapter_files import PREFIX, AdapterFiles, put_bytes
from tests.support.base_weights import RandomBase

MODULE = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    base = RandomBase.llama()
    limits = Limits(max_rank=4096)
    store = AdapterStore(root, base, dtype=torch.float32, limits=limits, host_bytes=1 << 20)
    yield store
    store.close()


def refusal(
    store: AdapterStore, config: dict[str, object], tensors: dict[str, Tensor]
) -> AdapterRefused:
    files = AdapterFiles({"target_modules": [MODULE], **config}, tensors)
    lossy_rank = 4 if config["peft_type"] in ("OFT", "OSF") else None
    with pytest.raises(AdapterRefused) as refused:
        put_bytes(store, files.config_bytes, files.weights_bytes, lossy_rank=lossy_rank)
    return refused.value


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({"peft_type": "TINYLORA", "r": 1024, "u": 65536, "save_projection": False}, "u"),
        ({"peft_type": "UNILORA", "r": 4096, "theta_d_length": 4, "target_modules": None}, "r"),
        (
            {
                "peft_type": "LORA",
                "use_nola": True,
                "r": 4096,
                "nola_num_basis": 65536,
                "nola_device": "cpu",
                "target_modules": "all-linear",
            },
            "nola_num_basis",
        ),
    ],
    ids=["tinylora", "unilora", "nola"],
)
def test_what_is_drawn_is_bounded(
    store: AdapterStore, config: dict[str, object], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if config["peft_type"] == "UNILORA":
        config = {**config, "target_modules": "all-linear"}
        monkeypatch.setattr("motet_adapters.families.unilora._MAX_ENTRIES", 1 << 20)
    assert refusal(store, config, {"x": torch.ones(1)}).param == param


def test_a_triangle_that_is_none_is_refused(store: AdapterStore) -> None:
    tensors = {f"{PREFIX}{MODULE}.oft_R.weight": torch.ones(8, 5)}
    assert "blocks" in refusal(store, {"peft_type": "OFT"}, tensors).message


def test_more_singular_values_than_there_are_is_refused(store: AdapterStore) -> None:
    prefix = f"{PREFIX}{MODULE}.osf_svd_params."
    tensors = {
        f"{prefix}U_low": torch.ones(32, 40),
        f"{prefix}S_low": torch.ones(40),
        f"{prefix}V_low": torch.ones(40, 32),
    }
    assert "singular values" in refusal(store, {"peft_type": "OSF"}, tensors).message
