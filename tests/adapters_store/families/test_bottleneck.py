"""Adapters of the `adapters` library: its published format against its own formula, as hooks.

The hooks do what the library's BottleneckLayer does around o_proj, down_proj and a layer of Llama:
bottleneck_layer_forward of src/adapters/methods/bottleneck.py with layer_norm None.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from torch import Tensor, nn
from torch.nn import functional

from tests.support.adapter_files import AdapterFiles
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import TOLERANCE, base_of, linear_output, tiny_llama

HIDDEN = 64
HOULSBY = {
    "mh_adapter": True,
    "output_adapter": True,
    "original_ln_before": False,
    "original_ln_after": True,
    "residual_before_ln": True,
    "non_linearity": "swish",
    "reduction_factor": 16,
}
PFEIFFER = HOULSBY | {
    "mh_adapter": False,
    "original_ln_before": True,
    "non_linearity": "relu",
}
# What the library writes besides, without influence on what is served.
DEFAULTS: dict[str, object] = {
    "adapter_residual_before_ln": False,
    "cross_adapter": False,
    "dropout": 0.0,
    "factorized_phm_W": True,
    "factorized_phm_rule": False,
    "hypercomplex_nonlinearity": "glorot-uniform",
    "init_weights": "bert",
    "init_weights_seed": None,
    "inv_adapter": None,
    "inv_adapter_reduction_factor": None,
    "is_parallel": False,
    "learn_phm": True,
    "leave_out": [],
    "ln_after": False,
    "ln_before": False,
    "phm_bias": True,
    "phm_c_init": "normal",
    "phm_dim": 4,
    "phm_init_range": 0.0001,
    "phm_layer": False,
    "phm_rank": 1,
    "scaling": 1.0,
    "shared_W_phm": False,
    "shared_phm_rule": True,
    "stochastic_depth": 0.0,
    "use_gating": False,
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": functional.silu,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
}


def files(config: dict[str, object], *, prefix: str = "model.", **outer: object) -> AdapterFiles:
    """An adapter "mine" of two layers, as save_adapter(..., use_safetensors=True) writes it."""
    random = torch.Generator().manual_seed(4)
    tensors: dict[str, Tensor] = {}
    values = DEFAULTS | config
    for layer in range(2):
        if layer in values["leave_out"]:  # type: ignore[operator]
            continue
        factor = values["reduction_factor"]
        if isinstance(factor, dict):
            factor = factor.get(str(layer), factor["default"])
        rank = int(HIDDEN // factor)  # type: ignore[operator]
        places = [("attention", values["mh_adapter"]), ("output", values["output_adapter"])]
        for place in (place for place, is_on in places if is_on):
            path = f"{prefix}layers.{layer}.{place}_adapters.adapters.mine."
            tensors |= {
                f"{path}adapter_down.0.weight": torch.randn(rank, HIDDEN, generator=random) * 0.3,
                f"{path}adapter_down.0.bias": torch.randn(rank, generator=random),
                f"{path}adapter_up.weight": torch.randn(HIDDEN, rank, generator=random) * 0.3,
                f"{path}adapter_up.bias": torch.randn(HIDDEN, generator=random),
            }
            if values["scaling"] == "learned":
                tensors[f"{path}scaling"] = torch.tensor([0.7])
            elif values["scaling"] == "channel":
                tensors[f"{path}scaling"] = torch.rand(HIDDEN, generator=random) + 0.5
    whole: dict[str, object] = {
        "config": values,
        "hidden_size": HIDDEN,
        "model_class": "LlamaAdapterModel",
        "model_name": "a/llama",
        "model_type": "llama",
        "name": "mine",
        "version": "adapters.1.2.0",
    }
    return AdapterFiles(whole | outer, tensors)


def bottleneck(adapter: AdapterFiles, path: str, h: Tensor) -> Tensor:
    """scaling * Up f(Down h), as Adapter.forward computes it."""
    tensors, config = adapter.tensors, adapter.config["config"]
    scaling = tensors.get(f"{path}scaling", config["scaling"])  # type: ignore[index]
    down = functional.linear(
        h, tensors[f"{path}adapter_down.0.weight"], tensors[f"{path}adapter_down.0.bias"]
    )
    inner = FUNCTIONS[config["non_linearity"]](down)  # type: ignore[index]
    up = functional.linear(
        inner, tensors[f"{path}adapter_up.weight"], tensors[f"{path}adapter_up.bias"]
    )
    return up * scaling


@pytest.fixture(scope="module")
def base() -> RandomBase:
    return base_of(tiny_llama())


@pytest.fixture(scope="module")
def store(base: RandomBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


CASES: dict[str, dict[str, object]] = {
    "houlsby": HOULSBY,
    "attention": HOULSBY | {"output_adapter": False},
    "output": HOULSBY | {"mh_adapter": False, "non_linearity": "gelu"},
    "scaled": HOULSBY | {"scaling": 4.0, "non_linearity": "tanh"},
    "learned": HOULSBY | {"scaling": "learned"},
    "channel": HOULSBY | {"scaling": "channel"},
    "factors": HOULSBY | {"reduction_factor": {"1": 8, "default": 32}},
    "left-out": HOULSBY | {"leave_out": [0]},
    "pfeiffer": PFEIFFER,
    "pfeiffer-channel": PFEIFFER | {"scaling": "channel"},
    "adapter-plus": PFEIFFER
    | {"original_ln_after": False, "residual_before_ln": False, "scaling": "channel"},
}


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("name", CASES)
def test_lowered_equals_the_library(
    store: AdapterStore, base: RandomBase, name: str, prefix: str
) -> None:
    adapter = files(CASES[name], prefix=prefix)
    image = store.image(adapter.put(store, name=name).digest)
    views = image.views(image.buffer)
    model = tiny_llama()
    expected = set()
    x = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(1))
    for key in adapter.tensors:
        if not key.endswith("adapter_up.weight"):
            continue
        path = key.removesuffix("adapter_up.weight")
        layer = f"model.{path.removeprefix('model.').partition('.attention_')[0]}"
        layer = layer.partition(".output_adapters")[0]
        if CASES[name]["original_ln_before"]:
            parts = views[layer].tensors
            expected.add(layer)
            u = FUNCTIONS[str(CASES[name]["non_linearity"])](
                x @ parts["a"].t() + parts["inner_bias"]
            )
            y = x + u @ parts["bt"] + parts["bias"]
            wanted = x + bottleneck(adapter, path, x)
        else:
            linear = "self_attn.o_proj" if "attention_adapters" in path else "mlp.down_proj"
            module = model.get_submodule(f"{layer}.{linear}")
            assert isinstance(module, nn.Linear)
            expected.add(f"{layer}.{linear}")
            z = torch.randn(5, module.in_features, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                a = module(z)
            wanted = a + bottleneck(adapter, path, a)
            y = linear_output(base, f"{layer}.{linear}", views[f"{layer}.{linear}"], z)
        assert (y - wanted).abs().max() <= TOLERANCE * wanted.abs().max(), path
    assert set(views) == expected


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "parallel": (HOULSBY | {"is_parallel": True}, "is_parallel"),
    "norm-before": (HOULSBY | {"ln_before": True}, "ln_before"),
    "norm-after": (HOULSBY | {"ln_after": True}, "ln_after"),
    "gate": (HOULSBY | {"use_gating": True}, "use_gating"),
    "invertible": (PFEIFFER | {"inv_adapter": "nice"}, "inv_adapter"),
    "compacter": (PFEIFFER | {"phm_layer": True}, "phm_layer"),
    "leaky": (HOULSBY | {"non_linearity": "leakyrelu"}, "non_linearity"),
    "between": (PFEIFFER | {"mh_adapter": True}, "mh_adapter"),
    "lost": (HOULSBY | {"original_ln_after": False}, "original_ln_after"),
    "twice": (PFEIFFER | {"residual_before_ln": False}, "original_ln_after"),
    "post-add": (PFEIFFER | {"residual_before_ln": "post_add"}, "residual_before_ln"),
    "nowhere": (PFEIFFER | {"output_adapter": False}, "output_adapter"),
    "lora": (HOULSBY | {"architecture": "lora"}, "architecture"),
    "unknown": (HOULSBY | {"new_key": 1}, "adapter_config.json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fold_is_refused_by_its_key(store: AdapterStore, name: str) -> None:
    config, key = REFUSED[name]
    with pytest.raises(AdapterRefused) as refused:
        files(config).put(store, name="refused")
    assert refused.value.param == key


def test_other_models_and_sizes_are_refused(store: AdapterStore) -> None:
    with pytest.raises(AdapterRefused, match="layer norm of the model"):
        files(PFEIFFER, model_type="bert").put(store)
    with pytest.raises(AdapterRefused, match="hidden_size"):
        files(HOULSBY, hidden_size=768).put(store)


def test_two_adapters_in_one_file_are_refused(store: AdapterStore) -> None:
    adapter = files(HOULSBY)
    extra = {
        name.replace(".mine.", ".other."): tensor.clone()
        for name, tensor in adapter.tensors.items()
    }
    with pytest.raises(AdapterRefused, match="2 adapters"):
        AdapterFiles(adapter.config, adapter.tensors | extra).put(store)


def test_a_missing_tensor_is_named(store: AdapterStore, tmp_path: Path) -> None:
    adapter = files(HOULSBY)
    name = next(name for name in adapter.tensors if name.endswith("adapter_up.bias"))
    del adapter.tensors[name]
    with pytest.raises(AdapterRefused, match=r"adapter_up\.bias"):
        adapter.put(store)
