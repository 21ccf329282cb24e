"""A thousand tenants over a shared basis take less of the device than fifty of LoRA.

On SmolLM2-135M's shapes, by the images' own layouts; `benchmarks/families.py` fills an arena.
"""

from collections.abc import Iterator, Mapping

import pytest
import torch
from motet_adapters import Limits
from motet_adapters.bases import basis_layout
from motet_adapters.config_fields import Fields
from motet_adapters.families import plan_upload
from motet_adapters.lower import lay_out
from motet_adapters.matching import require_match
from motet_adapters.safetensors_file import StoredTensor

from tests.support.base_weights import RandomBase

MANY, FEW, RANK = 1000, 50, 16
HIDDEN, KEYS, INNER = 576, 192, 1536
SHAPES = {
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (KEYS, HIDDEN),
    "v_proj": (KEYS, HIDDEN),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (INNER, HIDDEN),
    "up_proj": (INNER, HIDDEN),
    "down_proj": (HIDDEN, INNER),
}
Shapes = Mapping[str, tuple[int, ...]]


class SmolLM2(RandomBase):
    """Its linears' names and shapes, without weights of that size."""

    def shape(self, module: str) -> tuple[int, int]:
        return SHAPES[module.rpartition(".")[2]]


BASE = SmolLM2.llama(layers=30, hidden=1, kv=1, ffn=1)


def modules(*names: str) -> Iterator[tuple[str, int, int]]:
    for module in BASE.modules():
        if not names or module.endswith(names):
            yield module, *BASE.shape(module)


def lora() -> tuple[dict[str, object], Shapes]:
    shapes: dict[str, tuple[int, ...]] = {}
    for module, n, k in modules():
        shapes |= {f"{module}.lora_A.weight": (RANK, k), f"{module}.lora_B.weight": (n, RANK)}
    return {"peft_type": "LORA", "r": RANK}, prefixed(shapes)


def lora_xs() -> tuple[dict[str, object], Shapes]:
    config, shapes = lora()
    names = [name.removesuffix(".lora_A.weight") for name in shapes if "lora_A" in name]
    cores = {f"{name}_lora_latent_mapping.weight": (RANK, RANK) for name in names}
    return config, {**shapes, **cores}


def vera(kind: str, halves: int) -> tuple[dict[str, object], Shapes]:
    rank = 4 * RANK
    shapes: dict[str, tuple[int, ...]] = {}
    for module, n, _ in modules():
        shapes |= {f"{module}.{kind}_lambda_d": (halves * rank,), f"{module}.{kind}_lambda_b": (n,)}
    shared = {f"{kind}_A": (halves * rank, INNER), f"{kind}_B": (INNER, rank)}
    base = {f"base_model.{name}": shape for name, shape in shared.items()}
    return {"peft_type": kind.upper(), "r": rank}, {**prefixed(shapes), **base}


def svf() -> tuple[dict[str, object], Shapes]:
    of_mlps = modules("gate_proj", "up_proj", "down_proj")
    shapes = {f"{module}.weight": (min(n, k),) for module, n, k in of_mlps}
    return {"peft_type": "SVF", "max_mult": 1}, shapes


def svft() -> tuple[dict[str, object], Shapes]:
    shapes: dict[str, tuple[int, ...]] = {}
    for module, n, k in modules("up_proj"):
        path, rank = f"{module}.svft_layer", min(n, k)
        shapes |= {f"{path}.s": (5 * rank - 6,), f"{path}.gate": (1,)}
        shapes |= {f"{path}.u": (n, rank), f"{path}.v": (rank, k)}
    return {"peft_type": "SVFT", "off_diag": 2, "target_modules": ["up_proj"]}, shapes


def prefixed(shapes: Shapes) -> Shapes:
    return {f"base_model.model.{name}": shape for name, shape in shapes.items()}


SHARED = {
    "vera": vera("vera", 1),
    "pvera": vera("pvera", 2),
    "lora-xs": lora_xs(),
    "svf": svf(),
    "svft": svft(),
}


def held(config: Mapping[str, object], shapes: Shapes, num_tenants: int) -> int:
    """Bytes of so many tenants' images, bfloat16, and of what they share."""
    tensors = {name: StoredTensor(torch.float32, shape, 0, 0) for name, shape in shapes.items()}
    fields = Fields({"target_modules": "all-linear", **config})
    if config["peft_type"] == "SVF":
        fields = fields.without("target_modules")
    plan = plan_upload(fields, tensors, BASE, Limits())
    require_match(plan, tensors, Limits())
    shared = sum(basis_layout(basis, torch.bfloat16).num_bytes for basis in plan.bases.values())
    return num_tenants * lay_out(plan, torch.bfloat16, None).num_bytes + shared


@pytest.mark.parametrize("name", SHARED)
def test_a_thousand_tenants_take_less_than_fifty_of_lora(name: str) -> None:
    few = held(*lora(), FEW)
    many = held(*SHARED[name], MANY)
    assert many < few
