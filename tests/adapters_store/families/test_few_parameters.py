"""AdaLoRA, IA3 and VB-LoRA: lowered, they compute what PEFT's modules compute."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from peft import AdaLoraConfig, IA3Config, PeftConfig, PeftModel, VBLoRAConfig, get_peft_model
from safetensors.torch import load, save

from tests.support.adapter_files import CONFIG_FILE, WEIGHTS_FILE, put_bytes
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import base_of, require_equal, tiny_llama, write

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EVERY = {"target_modules": ALL, "task_type": "CAUSAL_LM"}
SOME = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
ADALORA = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 1, "total_step": 10}

CASES: dict[str, PeftConfig] = {
    "adalora": AdaLoraConfig(**ADALORA, lora_alpha=3, **EVERY),
    "ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    ),
    "ia3-expression": IA3Config(
        target_modules=r".*(k_proj|down_proj)",
        feedforward_modules=r".*down_proj",
        task_type="CAUSAL_LM",
    ),
    "vblora": VBLoRAConfig(r=3, num_vectors=300, vector_length=32, **EVERY),
    "vblora-top": VBLoRAConfig(
        r=3, num_vectors=16, vector_length=32, topk=3, save_only_topk_weights=True, **EVERY
    ),
    "vblora-top-of-many": VBLoRAConfig(
        r=3, num_vectors=300, vector_length=16, save_only_topk_weights=True, **SOME
    ),
    "vblora-one": VBLoRAConfig(
        r=3, num_vectors=16, vector_length=32, topk=1, save_only_topk_weights=True, **SOME
    ),
}


@pytest.fixture(scope="module")
def base() -> RandomBase:
    return base_of(tiny_llama())


@pytest.fixture(scope="module")
def store(base: RandomBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterStore]:
    root = tmp_path_factory.mktemp("store")
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


@pytest.mark.parametrize("name", CASES)
def test_lowered_equals_peft(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str
) -> None:
    written = write(CASES[name], tmp_path, size=0.5)
    adapter = written.put(store, name=name)
    assert adapter.kind == name.partition("-")[0]
    assert ("expression" in " ".join(adapter.warnings)) == ("expression" in name)
    require_equal(store, base, written.oracle, adapter)


def test_adalora_pruned_keeps_its_scale(
    store: AdapterStore, base: RandomBase, tmp_path: Path
) -> None:
    """PEFT's own allocation prunes modules to ranks of their own, to none at all among them."""
    config = AdaLoraConfig(**ADALORA, lora_alpha=3, **SOME)
    model = get_peft_model(tiny_llama(), config)
    random = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # One module is far less important than the others.
            size = 1e-4 if "layers.0.self_attn.v_proj" in name else 0.5
            parameter.data = torch.randn(parameter.shape, generator=random) * size
    ids = torch.arange(8)[None]
    for step in range(10):
        model(input_ids=ids, labels=ids).loss.backward()
        model.base_model.update_and_allocate(step)
        model.zero_grad()
    model.save_pretrained(str(tmp_path))
    adapter = put_bytes(
        store,
        (tmp_path / CONFIG_FILE).read_bytes(),
        (tmp_path / WEIGHTS_FILE).read_bytes(),
        name="pruned",
    )
    assert max(adapter.ranks) < 6
    oracle = PeftModel.from_pretrained(tiny_llama(), str(tmp_path)).eval()
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    empty = [path for path, parts in views.items() if not parts.tensors["a"].shape[0]]
    assert "model.layers.0.self_attn.v_proj" in empty
    assert len(empty) < len(views)
    for path, parts in views.items():
        x = torch.randn(5, base.shape(path)[1], generator=random)
        with torch.no_grad():
            module = oracle.get_submodule(f"base_model.model.{path}")
            expected = module(x) - module.base_layer(x)
        delta = x @ parts.tensors["a"].t() @ parts.tensors["bt"]
        assert (delta - expected).abs().max() <= 1e-5 * max(float(expected.abs().max()), 1.0)


def test_an_index_past_the_bank_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    write(CASES["vblora-top"], tmp_path)
    tensors = load((tmp_path / WEIGHTS_FILE).read_bytes())
    name = next(name for name in tensors if name.endswith("A_topk_indices"))
    tensors[name][0, 0, 0] = 16
    with pytest.raises(AdapterRefused, match="past the bank"):
        put_bytes(store, (tmp_path / CONFIG_FILE).read_bytes(), save(tensors))
    tensors[name] = tensors[name].float()
    with pytest.raises(AdapterRefused, match="integers"):
        put_bytes(store, (tmp_path / CONFIG_FILE).read_bytes(), save(tensors))


def test_ia3_on_a_shared_input_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    config = IA3Config(
        target_modules=["up_proj"], feedforward_modules=["up_proj"], task_type="CAUSAL_LM"
    )
    with pytest.raises(AdapterRefused, match="shares with others"):
        write(config, tmp_path).put(store)
