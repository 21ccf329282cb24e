"""NOLA (arXiv 2310.02556), as its repository saves it: sums of random matrices of a seed.

The files of github.com/UCDvision/NOLA (llama) are those of an early PEFT's LoRA, use_nola in the
config and coefficients and a seed beside each weight. The generator is that of the device the
training ran on, and the files do not say which: the config must, by "nola_device": "cpu".
"""

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import is_set
from motet_adapters.families.family import Family
from motet_adapters.families.lora_config import lora_settings
from motet_adapters.families.lora_like import lora_like_keys
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import key, linears_of
from motet_adapters.file_kinds import WEIGHTS_FILE
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_MAX_BASIS = 1 << 16
_MAX_DRAWN = 1 << 35  # numbers; minutes
_DRAWN_AT_ONCE = 1 << 24  # numbers


def plan_nola(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    settings = lora_settings(fields, limits)
    _require_cpu(fields)
    count = fields.integer(fields.get("nola_num_basis", 128), "nola_num_basis", 1, _MAX_BASIS)

    modules = linears_of(fields, tensors, base)
    drawn = count * sum(sum(base.shape(m)) * settings.rank_of(m) for m in modules)
    if drawn > _MAX_DRAWN:
        raise AdapterRefused(
            f"{drawn} numbers are to be drawn for this adapter, over the limit of {_MAX_DRAWN}. "
            "Compute lora_A and lora_B as NOLALinear's forward does, and upload them as plain "
            "LoRA.",
            "nola_num_basis",
        )

    def site(module: str) -> SitePlan:
        (n, k), r = base.shape(module), settings.rank_of(module)
        factors = {key(module, "lora_A"): (r, k), key(module, "lora_B"): (n, r)}
        wanted: dict[str, tuple[int, ...]] = {}
        for name, shape in factors.items():
            wanted |= {
                f"{name}.weight": shape,
                f"{name}.coefficients": (count,),
                f"{name}.seed": (1,),
            }
        stored = [tensors.get(f"{name}.coefficients") for name in factors]
        dtypes = [torch.float32 if found is None else found.dtype for found in stored]
        return SitePlan(
            module,
            wanted,
            {"a": PartSpec((r, k)), "bt": PartSpec((r, n))},
            partial(_lower, tuple(factors), dtypes, settings.scale_of(module, r)),
            integers=frozenset(f"{name}.seed" for name in factors),
        )

    return AdapterPlan("nola", tuple(map(site, modules)))


def nola_factor(weight: Tensor, coefficients: Tensor, seed: int, dtype: torch.dtype) -> Tensor:
    """weight + sum_i c_i W_i / sqrt(n), W_i of U(-1, 1) drawn one after the other from the seed.

    weight [m, k] and coefficients [n] float32; dtype: in which the coefficients are stored, and so
    the numbers were drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(weight)
    at_once = max(1, _DRAWN_AT_ONCE // weight.numel())
    for chunk in torch.split(coefficients, at_once):
        drawn = torch.zeros(len(chunk), *weight.shape, dtype=dtype)
        drawn.uniform_(-1.0, 1.0, generator=generator)
        total += torch.einsum("b,boi->oi", chunk, drawn.float())
    return weight + total / math.sqrt(len(coefficients))


def _require_cpu(fields: Fields) -> None:
    if fields.get("nola_device") != "cpu":
        raise AdapterRefused(
            "NOLA's random matrices are drawn by the device it was trained on, and those of a GPU "
            'can\'t be drawn again here. If it was trained on a CPU, say so: add "nola_device": '
            '"cpu". Otherwise compute lora_A and lora_B where it was trained, as NOLALinear\'s '
            "forward does, and upload them as plain LoRA.",
            "nola_device",
        )


def _lower(
    names: tuple[str, ...], dtypes: list[torch.dtype], scale: float, read: Read
) -> dict[str, Tensor]:
    factors = []
    for name, dtype in zip(names, dtypes, strict=True):
        seed = int(read(f"{name}.seed"))
        if seed < 0:
            raise AdapterRefused(f"{name}.seed is negative.", WEIGHTS_FILE)
        weight, coefficients = read(f"{name}.weight"), read(f"{name}.coefficients")
        factors.append(nola_factor(weight, coefficients, seed, dtype))
    return {"a": factors[0], "bt": (factors[1] * scale).t()}


NOLA = Family(
    name="nola",
    title="NOLA",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + alpha / r B A x, A and B each W_0 + sum_i c_i W_i / sqrt(n), W_i drawn "
    "from a seed",
    lowering="a = A, b = alpha / r B, drawn again on the CPU; of a GPU's seeds refused",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2310.02556",
    keys=lora_like_keys("NOLA", {"use_nola", "nola_num_basis", "nola_device"}),
    plan=plan_nola,
    claims=lambda fields: is_set(fields, "use_nola"),
)
