"""Uni-LoRA (arXiv 2506.00799): all entries of all factors are numbers of one short vector."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.biases import require_no_bias
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import linears_of, product_keys
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_VECTOR = "base_model.unilora_theta_d"
_MAX_LENGTH = 1 << 24
_MAX_ENTRIES = 1 << 26  # of all factors, shuffled at once
_MAX_SEED = (1 << 63) - 1


def plan_unilora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    r = fields.integer(fields.get("r", 4), "r", 1, limits.max_rank)
    length = fields.integer(fields.get("theta_d_length", 256), "theta_d_length", 1, _MAX_LENGTH)
    seed = fields.integer(fields.get("proj_seed", 42), "proj_seed", 0, _MAX_SEED)
    if fields.flag("save_indices"):
        raise AdapterRefused(
            "save_indices is set; the indices are drawn again here. Save with save_indices=False.",
            "save_indices",
        )
    modules = linears_of(fields, tensors, base)
    sizes = [r * size for module in modules for size in reversed(base.shape(module))]
    if sum(sizes) > _MAX_ENTRIES:
        raise AdapterRefused(
            f"The factors have {sum(sizes)} entries, over the limit of {_MAX_ENTRIES}. Train it "
            "with a smaller r, or fewer targets.",
            "r",
        )
    starts = [sum(sizes[:index]) for index in range(len(sizes))]

    @cache
    def drawn() -> tuple[Tensor, Tensor]:
        return unilora_places(sum(sizes), length, seed)

    def site(index: int, module: str) -> SitePlan:
        n, k = base.shape(module)

        def factor(vector: Tensor, number: int) -> Tensor:
            places, scales = drawn()
            own = places[starts[number] : starts[number] + sizes[number]]
            return vector[own] * scales[own]

        def lower(read: Read) -> dict[str, Tensor]:
            vector = read(_VECTOR)
            a, b = factor(vector, 2 * index), factor(vector, 2 * index + 1)
            return {"a": a.view(r, k), "bt": b.view(n, r).t()}

        parts = {"a": PartSpec((r, k)), "bt": PartSpec((r, n))}
        return SitePlan(module, {_VECTOR: (length,)}, parts, lower)

    sites = (site(index, module) for index, module in enumerate(modules))
    return AdapterPlan("unilora", tuple(sites))


def unilora_places(count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """For each of `count` entries which number of the vector it is, as PEFT 0.21 draws them, module
    by module, A before B; and for each of the `length` numbers one over the root of its entries."""
    random = np.random.default_rng(seed)
    places = np.repeat(np.arange(length), count // length)
    if count % length:
        extra = random.choice(length, size=count % length, replace=False)
        places = np.concatenate([places, extra])
    random.shuffle(places)
    found = torch.as_tensor(places, dtype=torch.int64)
    # A number without an entry is divided by zero and never read.
    return found, torch.bincount(found, minlength=length).float().rsqrt()


UNILORA = Family(
    name="unilora",
    title="Uni-LoRA",
    peft_type="UNILORA",
    status="served",
    formula="y = W x + b + B A x, A and B of d numbers, each over the root of its uses",
    lowering="a = A, b = B, their entries drawn again from proj_seed",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2506.00799",
    keys=product_keys(
        {"r", "bias", "theta_d_length", "proj_seed", "save_indices"},
        {"unilora_dropout", "init_theta_d_bound"},
    ),
    plan=plan_unilora,
)
