"""Which models' parts are called directly, and that a forward which does more than that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from motet.engine.batch import Batch
from motet.engine.direct_forward import RotaryTable
from motet.engine.model import PagedModel
from motet.engine.probe import silent_sequence
from motet.engine.scheduler import Row
from motet_kernels import LayerOps, select_ops
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tests.support.serving import served
from tests.support.tiny_models import SERVED, make_checkpoint, tiny_config

CPU = torch.device("cpu")

# all layers of one form, and nothing in between; smollm3 has layers of two forms
DIRECT = {"llama", "llama_tied", "llama_odd", "mistral", "qwen2", "qwen3"}

# a layer of the known form; embeddings or logits that are scaled around it
PLAIN_GRANITE = {
    "residual_multiplier": 1.0,
    "attention_multiplier": 0.25,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 1e4,
}

needs_layer_ops = pytest.mark.skipif(
    not isinstance(select_ops(CPU), LayerOps), reason="torch's kernels serve here"
)


@needs_layer_ops
@pytest.mark.parametrize("name", SERVED)
def test_models_that_only_call_their_parts_run_directly(name: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", name)
    with served(checkpoint, tmp_path / "data") as runtime:
        model = runtime.engine._model
        assert (model._direct is not None) == (name in DIRECT)


@needs_layer_ops
@pytest.mark.parametrize(
    ("more", "is_direct"),
    [({"embedding_multiplier": 3.0}, False), ({"logits_scaling": 2.0}, False), ({}, True)],
)
def test_a_forward_that_scales_is_kept(
    more: dict[str, float], is_direct: bool, tmp_path: Path
) -> None:
    scales = PLAIN_GRANITE | more
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "granite", **scales)
    with served(checkpoint, tmp_path / "data") as runtime:
        model = runtime.engine._model
        assert model.num_one_call_layers == model.num_layers
        assert (model._direct is not None) == is_direct


@needs_layer_ops
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rope", [None, YARN, LLAMA3])
def test_the_bits_are_those_of_the_model_s_own_forward(
    rope: dict[str, object] | None, dtype: str, tmp_path: Path
) -> None:
    more = {} if rope is None else {"rope_parameters": rope}
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", "llama", max_position_embeddings=2048, **more
    )
    with served(checkpoint, tmp_path / "data", dtype=dtype) as runtime:
        model = runtime.engine._model
        direct = logits(model, (3, 700, 41))
        assert model._direct is not None
        model._direct = None
        own = logits(model, (3, 700, 41))
    assert torch.equal(direct, own)


def test_the_rotary_table_asks_no_further_than_sequences_may_get() -> None:
    """A module may answer differently for all positions once one is beyond the longest."""
    asked: list[tuple[int, int]] = []

    class Recorded(LlamaRotaryEmbedding):
        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
            asked.append((int(position_ids.min()), int(position_ids.max())))
            return super().forward(x, position_ids)

    module = Recorded(tiny_config("llama"))
    table = RotaryTable(module, torch.zeros(1, dtype=torch.bfloat16), 1300)
    for positions in ([0, 5], [511, 3], [512, 0], [1299, 700], [1]):
        wanted = torch.tensor([positions])
        found = table.at(wanted)
        expected = LlamaRotaryEmbedding.forward(module, torch.zeros(1).bfloat16(), wanted)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert asked == [(0, 511), (512, 1023), (1024, 1299)]  # none twice


@torch.inference_mode()
def logits(model: PagedModel, lengths: tuple[int, ...]) -> torch.Tensor:
    """[R, V]: those of sequences of random tokens, all but the last computed in a pass before."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randint(0, 300, (length + 1,), generator=generator) for length in lengths]
    sequences = [silent_sequence(i, ids.tolist()) for i, ids in enumerate(draw)]
    first = 1
    for sequence in sequences:
        num_blocks = -(-sequence.length // model.layout.block_size)
        sequence.blocks.extend(range(first, first + num_blocks))
        first += num_blocks
    model.forward(Batch.build([Row(s, 0, s.length - 1, 0) for s in sequences], model.layout))
    rows = [Row(s, s.length - 1, 1, 0) for s in sequences]
    return model.forward(Batch.build(rows, model.layout))
