"""Families of LORA that PEFT cannot make on a CPU, or at all: files and formulas as published."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from motet_adapters import AdapterRefused, AdapterStore, Limits
from torch import Tensor

from tests.support.adapter_files import PREFIX, AdapterFiles, random_adapter
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import TOLERANCE, linear_output

RANK, SCALE = 4, 2.0
Tensors = Mapping[str, Tensor]
Formula = Callable[[Tensor, Tensors, Tensor], Tensor]
"""x [T, K], a module's tensors by suffix and W [N, K] -> what is added to W x."""


def files_of(base: RandomBase, **config: object) -> AdapterFiles:
    return random_adapter(
        base, targets=("q_proj", "down_proj"), rank=RANK, alpha=RANK * SCALE, config=config
    )


def loftq(base: RandomBase) -> AdapterFiles:
    return files_of(
        base, init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1}
    )


def plain(x: Tensor, tensors: Tensors, _weight: Tensor) -> Tensor:
    return SCALE * (x @ tensors["lora_A.weight"].t()) @ tensors["lora_B.weight"].t()


def milora(base: RandomBase) -> AdapterFiles:
    return files_of(base, init_lora_weights="milora")


def beside_the_minor(x: Tensor, tensors: Tensors, weight: Tensor) -> Tensor:
    """arXiv 2406.09044: training ran on W without its r smallest singular parts, beside B A."""
    u, s, vh = torch.linalg.svd(weight.double())
    minor = (u[:, : len(s)][:, -RANK:] * s[-RANK:]) @ vh[: len(s)][-RANK:]
    return plain(x, tensors, weight) - x @ minor.float().t()


def irqlora(base: RandomBase) -> AdapterFiles:
    files = files_of(base)
    for name in [name for name in files.tensors if name.endswith("lora_A.weight")]:
        for factor, value in (("A", 0.7), ("B", -0.4)):
            scalar = name.replace("lora_A.weight", f"lora_default_{factor}_scale")
            files.tensors[scalar] = torch.tensor([value])
    return files


def elastic(x: Tensor, tensors: Tensors, _weight: Tensor) -> Tensor:
    """arXiv 2402.05445, equations of its information elastic connection, as its code has them."""
    z = x @ tensors["lora_A.weight"].t()
    z = z + tensors["lora_default_A_scale"] * x.unflatten(-1, (RANK, -1)).mean(-1)
    y = (z @ tensors["lora_B.weight"].t()).unflatten(-1, (RANK, -1))
    return SCALE * (y + tensors["lora_default_B_scale"] * z.unsqueeze(-1)).flatten(-2)


def qalora(base: RandomBase) -> AdapterFiles:
    """PEFT makes it on GPTQ layers alone."""
    files = files_of(base, use_qalora=True, qalora_group_size=8)
    for name, tensor in files.tensors.items():
        if name.endswith("lora_A.weight"):
            files.tensors[name] = tensor[:, : tensor.shape[1] // 8].contiguous()
    return files


def pooled(x: Tensor, tensors: Tensors, _weight: Tensor) -> Tensor:
    """arXiv 2309.14717 with PEFT's factor: means of groups, times how many they are."""
    groups = x.unflatten(-1, (-1, 8)).mean(-1)
    z = (groups * groups.shape[-1]) @ tensors["lora_A.weight"].t()
    return SCALE * z @ tensors["lora_B.weight"].t()


CASES: dict[str, tuple[Callable[[RandomBase], AdapterFiles], Formula]] = {
    "loftq": (loftq, plain),
    "milora": (milora, beside_the_minor),
    "irqlora": (irqlora, elastic),
    "qalora": (qalora, pooled),
}


@pytest.fixture(scope="module")
def base() -> RandomBase:
    plain = RandomBase.llama()
    weights = {module: plain.weight(module) for module in plain.modules()}
    dense = {path: plain.dense(path) for path in (*plain.norms(), plain.embedding()[0])}
    return RandomBase(weights, dense=dense, originals=weights)


@pytest.fixture
def store(base: RandomBase, tmp_path: Path) -> Iterator[AdapterStore]:
    store = AdapterStore(tmp_path, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


@pytest.mark.parametrize("name", CASES)
def test_lowered_equals_the_formula(store: AdapterStore, base: RandomBase, name: str) -> None:
    make, formula = CASES[name]
    files = make(base)
    adapter = files.put(store)
    assert adapter.kind == name
    assert bool(adapter.warnings) == (name == "irqlora")
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    assert len(views) == 4
    random = torch.Generator().manual_seed(3)
    for module, parts in views.items():
        x = torch.randn(5, base.shape(module)[1], generator=random)
        own = {
            key.removeprefix(f"{PREFIX}{module}."): tensor
            for key, tensor in files.tensors.items()
            if key.startswith(f"{PREFIX}{module}.")
        }
        weight = base.weight(module)
        expected = x @ weight.t() + formula(x, own, weight)
        found = linear_output(base, module, parts, x)
        assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max(), module
        assert (expected - x @ weight.t()).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("device", [None, "cuda"])
def test_nola_of_a_gpus_seeds_is_refused(
    store: AdapterStore, base: RandomBase, device: str | None
) -> None:
    files = files_of(base, use_nola=True, nola_num_basis=4)
    if device is not None:
        files.config["nola_device"] = device
    with pytest.raises(AdapterRefused, match="upload them as plain LoRA") as refused:
        files.put(store)
    assert refused.value.param == "nola_device"
