"""An adapter of every family, bent at random: accepted with finite numbers, or refused in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
import torch
from motet.engine.base import QuantizedBase, open_base
from motet_adapters import AdapterError, AdapterStore, Limits
from transformers import PreTrainedModel

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, put_bytes
from tests.support.dense_model import dense_model
from tests.support.family_cases import make, names
from tests.support.hostile_costs import counted
from tests.support.hostile_mutations import Upload, uploads
from tests.support.tiny_models import make_checkpoint

EACH = 8
_SETTINGS = hypothesis.settings(
    max_examples=EACH,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],
)


@dataclass(frozen=True)
class Stage:
    root: Path
    base: QuantizedBase
    plain: PreTrainedModel
    store: AdapterStore
    outcomes: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("bent")
    checkpoint = make_checkpoint(root / "checkpoint", "llama", attention_bias=True)
    base = open_base(str(checkpoint), cache_dir=root / "data")
    store = AdapterStore(
        root / "store", base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 20
    )
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a server lowers; teams that wait would count as work
    yield Stage(root, base, dense_model(base), store)
    torch.set_num_threads(num_threads)
    store.close()


@pytest.mark.parametrize("name", names())
def test_a_bent_one_is_accepted_or_refused(stage: Stage, name: str) -> None:
    directory = stage.root / name
    make(name, stage.base, stage.plain, directory)
    valid = (directory / CONFIG_FILE).read_bytes(), (directory / WEIGHTS_FILE).read_bytes()
    digest = put_bytes(stage.store, *valid, name="valid").digest
    stage.store.image(digest)  # what is imported or computed once is not the bent ones' doing

    @_SETTINGS
    @hypothesis.given(upload=uploads([valid]))
    def send(upload: Upload) -> None:
        with counted() as costs:
            outcome = put(stage.store, upload)
        costs.require_modest(stage.root)
        stage.outcomes[outcome] += 1

    send()
    assert [adapter.name for adapter in stage.store.list("acme")] == ["valid"]


def put(store: AdapterStore, upload: Upload) -> str:
    try:
        adapter = put_bytes(store, upload.config, upload.weights, name="bent")
    except AdapterError as error:
        require_presentable(error.message)
        return "refused"
    image = store.image(adapter.digest)
    for path, views in image.views(image.buffer).items():
        for part, tensor in views.tensors.items():
            assert torch.isfinite(tensor).all() or not tensor.is_floating_point(), (path, part)
    store.delete("acme", "bent")
    return "accepted"


def require_presentable(message: str) -> None:
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 4000


def test_both_happened(stage: Stage) -> None:
    """After the others, in this file's order."""
    if sum(stage.outcomes.values()) < EACH * len(names()):
        pytest.skip("only some of the families were bent")
    assert min(stage.outcomes["accepted"], stage.outcomes["refused"]) > EACH
