"""Places of a model that adapters change besides its linears: each row gets its own, alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from motet.engine.experts import ExpertsSite
from motet.engine.linear import CurrentRouting
from motet.engine.sites import Sites
from motet_adapters import SiteParts
from motet_kernels import Ops, ReferenceOps, Routing, select_ops
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.tiny_models import tiny_model

CPU = torch.device("cpu")
IDS = [5, 9, 9, 301, 17, 5, 44]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3


class Place:
    """A tiny model in float32 with its sites, its linears left as they are."""

    def __init__(self, name: str, ops: Ops) -> None:
        self.model: PreTrainedModel = tiny_model(name).float()
        self.routing = CurrentRouting()
        self.sites = Sites(self.model, {}, ops, self.routing, num_slots=4, device=CPU)

    def logits(self, slots: Sequence[int]) -> Tensor:
        """[T, V], token t by `slots[t]`, all of one sequence."""
        routing = Routing.from_slots(slots)
        self.routing.set(routing, routing)
        with torch.inference_mode():
            logits: Tensor = self.model(torch.tensor([IDS[: len(slots)]]), use_cache=False).logits
        return logits[0]


@pytest.fixture(params=["native", "reference"])
def ops(request: pytest.FixtureRequest) -> Ops:
    return ReferenceOps() if request.param == "reference" else select_ops(CPU)


def changed(place: Place, **weights: Tensor) -> Tensor:
    """The base's logits with some of the weights replaced, by their names in the model."""
    with torch.inference_mode():
        fresh = tiny_model(place.model.config.model_type).float()
        state = fresh.state_dict()
        for name, weight in weights.items():
            state[name.replace("__", ".")].copy_(weight)
        logits: Tensor = fresh(torch.tensor([IDS]), use_cache=False).logits
    return logits[0]


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("path", ["model.layers.0.post_attention_layernorm", "model.norm"])
def test_a_norm_of_its_own(name: str, path: str, ops: Ops) -> None:
    place = Place(name, ops)
    base = place.logits([0] * 7)
    weight = random(64)
    place.sites.bind(2, {path: SiteParts({"weight": weight})})
    expected = changed(place, **{f"{path}.weight": weight})
    assert_same(place.logits([2] * 7), expected)
    assert torch.equal(place.logits([0] * 7), base)
    assert torch.equal(place.logits([0, 0, 0, 2, 2, 2, 2])[:3], base[:3])
    place.sites.bind(2, {})
    assert torch.equal(place.logits([2] * 7), base)


def test_an_embedding_with_low_rank_gain_and_replaced_rows(ops: Ops) -> None:
    place = Place("llama", ops)
    base = place.logits([0] * 7)
    at, bt, gain = random(320, 3), random(3, 64, seed=1), random(64, seed=2) + 1
    index, rows = torch.tensor([9, 301]), random(2, 64, seed=3)
    parts = {"at": at, "bt": bt, "gain": gain, "rows_index": index, "rows": rows}
    place.sites.bind(1, {"model.embed_tokens": SiteParts(parts)})
    weight = gain * (place.model.get_input_embeddings().weight + at @ bt)
    weight[index] = rows
    expected = changed(place, **{"model.embed_tokens.weight": weight})
    assert_same(place.logits([1] * 7), expected)
    assert torch.equal(place.logits([0, 0, 1, 1, 1, 1, 1])[:2], base[:2])


def test_an_embedding_that_the_model_scales(ops: Ops) -> None:
    place = Place("gemma3_text", ops)
    at, bt, rows = random(320, 2), random(2, 64, seed=1), random(1, 64, seed=2)
    parts = {"at": at, "bt": bt, "rows_index": torch.tensor([5]), "rows": rows}
    place.sites.bind(1, {"model.embed_tokens": SiteParts(parts)})
    weight = place.model.get_input_embeddings().weight.detach().clone() + at @ bt
    weight[5] = rows
    head = {"lm_head.weight": place.model.get_input_embeddings().weight.detach().clone()}
    model = tiny_model("gemma3_text", tie_word_embeddings=False).float()
    with torch.inference_mode():
        state = model.state_dict()
        for key, value in place.model.state_dict().items():
            state[key].copy_(value)
        state["model.embed_tokens.weight"].copy_(weight)
        state["lm_head.weight"].copy_(head["lm_head.weight"])
        expected = model(torch.tensor([IDS]), use_cache=False).logits[0]
    assert_same(place.logits([1] * 7), expected)


def test_a_head_with_low_rank_with_rows_and_all_of_its_own(ops: Ops) -> None:
    place = Place("llama", ops)
    base = place.logits([0] * 7)
    a, bt = random(2, 64), random(2, 320, seed=1)
    index, rows, whole = torch.tensor([3, 300]), random(2, 64, seed=2), random(320, 64, seed=3)
    head = place.model.get_output_embeddings().weight.detach()
    place.sites.bind(1, {"lm_head": SiteParts({"a": a, "bt": bt})})
    place.sites.bind(2, {"lm_head": SiteParts({"rows_index": index, "rows": rows})})
    place.sites.bind(3, {"lm_head": SiteParts({"weight": whole})})
    replaced = head.clone()
    replaced[index] = rows
    expected = {
        1: changed(place, **{"lm_head.weight": head + (a.T @ bt).T}),
        2: changed(place, **{"lm_head.weight": replaced}),
        3: changed(place, **{"lm_head.weight": whole}),
    }
    slots = [0, 1, 1, 2, 3, 0, 2]
    mixed = place.logits(slots)
    for t, slot in enumerate(slots):
        if slot == 0:
            assert torch.equal(mixed[t], base[t])
        else:
            assert_same(mixed[t], expected[slot][t])
        assert torch.equal(mixed[t], place.logits([slot] * 7)[t])


def test_adapters_on_a_layers_output(ops: Ops) -> None:
    place = Place("llama", ops)
    base = place.logits([0] * 7)
    a, bt, c, d = random(4, 64), random(4, 64, seed=1), random(4, seed=2), random(64, seed=3)
    tensors = {"a": a, "bt": bt, "inner_bias": c, "bias": d}
    place.sites.bind(1, {"model.layers.1": SiteParts(tensors, "relu")})
    model = tiny_model("llama").float()

    def hook(_module: object, _arguments: object, y: Tensor) -> Tensor:
        return y + torch.relu(y @ a.T + c) @ bt + d

    model.model.layers[1].register_forward_hook(hook)
    with torch.inference_mode():
        expected = model(torch.tensor([IDS]), use_cache=False).logits[0]
    assert_same(place.logits([1] * 7), expected)
    mixed = place.logits([0, 0, 1, 1, 0, 0, 1])
    assert torch.equal(mixed[:2], base[:2])
    assert_same(mixed[2], expected[2])


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_experts_with_adapters_of_their_own(name: str, ops: Ops) -> None:
    place = Place(name, ops)
    path = "model.layers.1.mlp.experts"
    site = place.sites._sites[path]
    assert isinstance(site, ExpertsSite)
    tensors = {}
    for projection, tables in site.tables.items():
        n, k = tables[0].out_features, tables[0].in_features
        tensors[f"{projection}.a"] = random(4, 2, k)
        tensors[f"{projection}.bt"] = random(4, 2, n, seed=1)
    plain = changed(place)
    base = place.logits([0] * 7)
    assert_same(base, plain)
    place.sites.bind(1, {path: SiteParts(tensors)})
    merged = {
        f"{path}.{projection}": place.model.get_submodule(path).get_parameter(projection)
        + torch.einsum("erk,ern->enk", tensors[f"{projection}.a"], tensors[f"{projection}.bt"])
        for projection in site.tables
    }
    expected = changed(place, **merged)
    assert_same(place.logits([1] * 7), expected)
    assert torch.equal(place.logits([0, 0, 0, 1, 1, 1, 1])[:3], base[:3])
    place.sites.bind(1, {})
    assert torch.equal(place.logits([1] * 7), base)


def test_a_tokens_experts_do_not_feel_the_other_tokens() -> None:
    place = Place("qwen3_moe", select_ops(CPU))
    path = "model.layers.0.mlp.experts"
    module = place.model.get_submodule(path)
    x, weights = random(40, 64), torch.rand(40, 2)
    chosen = torch.randint(4, (40, 2), generator=torch.Generator().manual_seed(0))
    place.routing.set(Routing.from_slots([0] * 40), Routing.from_slots([0]))
    with torch.inference_mode():
        together = module(x, chosen, weights)
        for t in range(40):
            place.routing.set(Routing.from_slots([0]), Routing.from_slots([0]))
            alone = module(x[t : t + 1], chosen[t : t + 1], weights[t : t + 1])
            assert torch.equal(together[t], alone[0])
