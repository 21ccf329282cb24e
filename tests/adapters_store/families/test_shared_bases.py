"""Families over a basis that tenants share: VeRA and PVeRA against PEFT's modules, LoRA-XS, SVF and
SVFT against their formulas, computed densely."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from motet_adapters import Adapter, AdapterRefused, AdapterStore, Limits
from peft import PeftConfig, VeraConfig
from peft.tuners.pvera import PveraConfig
from torch import Tensor

from tests.support.adapter_files import PREFIX, AdapterFiles
from tests.support.base_weights import RandomBase
from tests.support.peft_lowering import (
    TOLERANCE,
    base_of,
    linear_output,
    require_equal,
    tiny_llama,
    write,
)

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SOME = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
EVERY = {"target_modules": ALL, "task_type": "CAUSAL_LM"}

CASES: dict[str, PeftConfig] = {
    "vera": VeraConfig(r=16, **EVERY),
    "vera-some": VeraConfig(r=16, **SOME),
    "vera-drawn": VeraConfig(r=16, save_projection=False, projection_prng_key=3, **EVERY),
    "vera-drawn-some": VeraConfig(r=8, save_projection=False, layers_to_transform=[1], **SOME),
    "pvera": PveraConfig(r=16, **EVERY),
    "pvera-drawn": PveraConfig(r=16, save_projection=False, projection_prng_key=3, **EVERY),
}


@pytest.fixture(scope="module")
def base() -> RandomBase:
    return base_of(tiny_llama())


@pytest.fixture
def store(base: RandomBase, tmp_path: Path) -> Iterator[AdapterStore]:
    root = tmp_path / "store"
    store = AdapterStore(root, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    yield store
    store.close()


@pytest.mark.parametrize("name", CASES)
def test_lowered_equals_peft(
    store: AdapterStore, base: RandomBase, tmp_path: Path, name: str
) -> None:
    written = write(CASES[name], tmp_path)
    require_equal(store, base, written.oracle, written.put(store, name))


def test_pvera_that_draws_at_inference_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    written = write(PveraConfig(r=4, **SOME), tmp_path)
    written.config["sample_at_inference"] = True
    with pytest.raises(AdapterRefused, match="drawn at random"):
        written.put(store)


def require_deltas(
    store: AdapterStore, base: RandomBase, adapter: Adapter, deltas: Mapping[str, Tensor]
) -> None:
    """Raises AssertionError unless each module's weight is changed by what the formula says."""
    image = store.image(adapter.digest)
    views = image.views(image.buffer)
    assert set(views) == set(deltas)
    for module, delta in deltas.items():
        x = torch.eye(base.shape(module)[1])
        bias = base.bias(module)
        y = linear_output(base, module, views[module], x) - (0 if bias is None else bias)
        changed = (y - x @ base.weight(module).t()).t()
        assert (changed - delta).abs().max() <= 10 * TOLERANCE * delta.abs().max(), module


def lora_xs(base: RandomBase, seed: int, *, short: bool = True) -> AdapterFiles:
    """Files as the repository saves them; A and B of every seed are the same."""
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for module in base.modules():
        if module.endswith("q_proj"):
            u, s, vt = torch.linalg.svd(base.weight(module), full_matrices=False)
            tensors[f"{PREFIX}{module}.lora_A.weight"] = (u[:, :4] * s[:4]).t()[:, :64].contiguous()
            tensors[f"{PREFIX}{module}.lora_B.weight"] = vt[:4].t().contiguous()
            core = torch.randn(4, 4, generator=random)
            name = "_lora" if short else ".default_lora"
            tensors[f"{PREFIX}{module}{name}_latent_mapping.weight"] = core
    config: dict[str, object] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
        "init_lora_weights": True,
    }
    return AdapterFiles(config, tensors)


@pytest.mark.parametrize("short", [True, False])
def test_lora_xs(store: AdapterStore, base: RandomBase, short: bool) -> None:
    files = lora_xs(base, 1, short=short)
    adapter = files.put(store)
    deltas = {}
    for name, b in files.tensors.items():
        if not name.endswith("lora_B.weight"):
            continue
        path = name.removesuffix(".lora_B.weight")
        mapping = f"{path}{'_lora' if short else '.default_lora'}_latent_mapping.weight"
        core, a = files.tensors[mapping], files.tensors[f"{path}.lora_A.weight"]
        deltas[path.removeprefix(PREFIX)] = 6 / 4 * b @ core @ a
    assert adapter.kind == "lora-xs"
    require_deltas(store, base, adapter, deltas)


def svf(base: RandomBase, seed: int, *, by_index: bool = True) -> AdapterFiles:
    random = torch.Generator().manual_seed(seed)
    modules = [module for module in base.modules() if "mlp" in module]
    tensors = {}
    for index, module in enumerate(modules):
        name = f"learnable_params_module_list.{index}" if by_index else f"{module}.weight"
        tensors[name] = torch.randn(min(base.shape(module)), generator=random)
    return AdapterFiles({"peft_type": "SVF", "max_mult": 1}, tensors)


@pytest.mark.parametrize("by_index", [True, False])
def test_svf(store: AdapterStore, base: RandomBase, by_index: bool) -> None:
    files = svf(base, 1, by_index=by_index)
    deltas = {}
    modules = [module for module in base.modules() if "mlp" in module]
    for module, learned in zip(modules, files.tensors.values(), strict=True):
        weight = base.weight(module)
        u, s, v = torch.svd(weight)  # as the repository decomposes it
        mask = torch.sigmoid(learned)
        changed = (u @ torch.diag_embed(s * mask) @ v.t()) * (s.sum() / (s * mask).sum())
        deltas[module] = changed - weight
    require_deltas(store, base, files.put(store), deltas)


def svft(base: RandomBase, *, pattern: str, off_diag: int, vectors: bool) -> AdapterFiles:
    """An SVFTLayer's tensors, made as its constructor makes them."""
    random = torch.Generator().manual_seed(5)
    tensors: dict[str, Tensor] = {}
    for module in base.modules():
        if not module.endswith(("v_proj", "up_proj")):
            continue
        u, s, v = torch.linalg.svd(base.weight(module), full_matrices=False)
        n = len(s)
        count = n * (2 * off_diag + 1) - off_diag * (off_diag + 1)
        if pattern == "banded":
            offsets = torch.cat(
                [torch.arange(0, off_diag + 1), torch.arange(-1, -off_diag - 1, -1)]
            )
            diagonals = torch.ones(2 * off_diag + 1, n)
            places = torch.sparse.spdiags(diagonals, offsets, (n, n)).coalesce().indices()
        else:
            places = torch.randint(0, n, (2, count), generator=random)
        assert places.shape[1] == count
        path = f"{module}.svft_layer"
        tensors[f"{path}.s"] = torch.randn(count, generator=random)
        tensors[f"{path}.gate"] = torch.randn(1, generator=random)
        tensors[f"{path}.s_row"], tensors[f"{path}.s_col"] = places[0].clone(), places[1].clone()
        tensors[f"{path}.s_pre"] = s
        tensors[f"{path}.s_pre_row"] = torch.arange(n)
        tensors[f"{path}.s_pre_col"] = torch.arange(n)
        if vectors:
            # Another machine's signs.
            signs = torch.randint(0, 2, (n,), generator=random) * 2.0 - 1
            tensors[f"{path}.u"] = (u * signs).contiguous()
            tensors[f"{path}.v"] = (v * signs[:, None]).contiguous()
    config: dict[str, object] = {
        "peft_type": "SVFT",
        "target_modules": ["v_proj", "up_proj"],
        "pattern": pattern,
        "off_diag": off_diag,
        "rank": None,
        "fill_orthonormal": False,
    }
    return AdapterFiles(config, tensors)


@pytest.mark.parametrize(
    ("pattern", "off_diag", "vectors", "places"),
    [
        ("banded", 0, False, True),
        ("banded", 0, False, False),
        ("banded", 0, True, True),
        ("banded", 2, True, True),
        ("banded", 2, True, False),
        ("random", 1, True, True),
        ("top_k", 2, True, True),
    ],
)
def test_svft(
    store: AdapterStore, base: RandomBase, pattern: str, off_diag: int, vectors: bool, places: bool
) -> None:
    files = svft(base, pattern=pattern, off_diag=off_diag, vectors=vectors)
    deltas = {}
    for module in base.modules():
        path = f"{module}.svft_layer"
        if f"{path}.s" not in files.tensors:
            continue
        stored = {
            name.removeprefix(f"{path}."): tensor
            for name, tensor in files.tensors.items()
            if name.startswith(f"{path}.")
        }
        u, s, v = torch.linalg.svd(base.weight(module), full_matrices=False)
        if vectors:
            u, v = stored["u"], stored["v"]
        matrix = torch.zeros(len(s), len(s))
        values = stored["s"] * torch.sigmoid(stored["gate"])
        matrix.index_put_((stored["s_row"], stored["s_col"]), values, accumulate=True)
        deltas[module] = u @ (torch.diag(s) + matrix) @ v - base.weight(module)
    if not places:
        for name in [*files.tensors]:
            if name.endswith((".s_row", ".s_col")):
                del files.tensors[name]
    require_deltas(store, base, files.put(store), deltas)


def test_svft_off_the_diagonal_needs_its_own_vectors(store: AdapterStore, base: RandomBase) -> None:
    files = svft(base, pattern="banded", off_diag=1, vectors=False)
    with pytest.raises(AdapterRefused, match="sign"):
        files.put(store)


def test_a_bands_columns_are_the_bases_and_its_entries_may_lie_in_any_order(
    store: AdapterStore, base: RandomBase
) -> None:
    files = svft(base, pattern="banded", off_diag=2, vectors=True)
    own = store.image(files.put(store).digest)
    for name in [name for name in files.tensors if name.endswith((".s", ".s_row", ".s_col"))]:
        files.tensors[name] = files.tensors[name].flip(0).contiguous()
    other = store.image(files.put(store, name="other").digest)
    assert torch.equal(own.buffer, other.buffer)
    for entry in own.entries.values():
        assert set(entry.parts) == {"core_values"}
        assert set(entry.bases) == {"a", "bt", "core_columns"}


def test_svft_outside_of_its_band_is_refused(store: AdapterStore, base: RandomBase) -> None:
    files = svft(base, pattern="banded", off_diag=1, vectors=True)
    name = next(name for name in files.tensors if name.endswith(".s_col"))
    files.tensors[name][0] = 7
    with pytest.raises(AdapterRefused, match="outside of the band"):
        files.put(store)
    files.config["off_diag"] = 64
    with pytest.raises(AdapterRefused, match="no room"):
        files.put(store)


def test_what_the_original_weights_are_needed_for_is_refused_without(tmp_path: Path) -> None:
    base = RandomBase.of(tiny_llama())
    store = AdapterStore(tmp_path, base, dtype=torch.float32, limits=Limits(), host_bytes=1 << 24)
    with pytest.raises(AdapterRefused, match="unquantised checkpoint"):
        svf(base, 1).put(store)
    store.close()
