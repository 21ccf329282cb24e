"""TinyLoRA (arXiv 2602.04118): a few numbers, spread over a frozen basis at random."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.biases import require_no_bias
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, SitePlan
from motet_adapters.families.product_sites import key, linears_of, product_keys, shared_product_site
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor

_MAX_VECTOR = 1 << 16
_MAX_PROJECTION = 1 << 24  # numbers drawn for a module; what a file may ask for without holding
_MAX_SEED = (1 << 63) - 1


def plan_tinylora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    default = fields.integer(fields.get("r", 2), "r", 1, limits.max_rank)
    length = fields.integer(fields.get("u", 64), "u", 1, _MAX_VECTOR)
    seed = fields.integer(fields.get("projection_seed", 42), "projection_seed", 0, _MAX_SEED)
    if length * default**2 > _MAX_PROJECTION:
        raise AdapterRefused(
            f"u={length} projections of rank {default} are over the limit of {_MAX_PROJECTION} "
            "numbers. Train it with a smaller u or r.",
            "u",
        )
    modules = linears_of(fields, tensors, base)
    groups = groups_of(len(modules), _tying(fields))
    # PEFT regenerates what was not saved, and does not read what was not to be saved.
    saved = fields.get("save_projection", True) is not False
    projections = {name for name in tensors if name.endswith(".tinylora_P")}

    def site(index: int, module: str) -> SitePlan:
        (n, k), p = base.shape(module), key(module, "tinylora_P")
        r = min(default, n, k)
        wanted: dict[str, tuple[int, ...]] = {
            f"base_model.tinylora_v.{groups[index]}": (length,),
            key(module, "tinylora_A"): (r, k),
            key(module, "tinylora_B"): (n, r),
        }
        if saved and p in tensors:
            wanted[p] = (length, r, r)
        factors = partial(_factors, seed + index)
        return shared_product_site(base, module, r, wanted, factors)

    return AdapterPlan(
        "tinylora",
        tuple(site(index, module) for index, module in enumerate(modules)),
        ignored=frozenset() if saved else frozenset(projections),
    )


def groups_of(num_modules: int, tying: float) -> list[int]:
    """Which of the vectors each targeted module reads, in the model's order, as in PEFT 0.21."""
    num_groups = max(1, round(num_modules * (1.0 - tying)))
    size = max(1, num_modules // num_groups)
    return [min(index // size, num_groups - 1) for index in range(num_modules)]


def tinylora_projection(length: int, rank: int, seed: int) -> Tensor:
    """[u, r, r] of N(0, 1 / r), drawn as PEFT 0.21 draws them for a module."""
    generator = torch.Generator().manual_seed(seed)
    return torch.normal(0.0, 1.0 / rank**0.5, size=(length, rank, rank), generator=generator)


def tinylora_factors(v: Tensor, a: Tensor, b: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """B (sum_i v_i P_i) A as B A. v [u], a [r, K], b [N, r], p [u, r, r]."""
    return torch.einsum("i,ijk->jk", v, p) @ a, b


def _factors(
    seed: int, v: Tensor, a: Tensor, b: Tensor, p: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return tinylora_factors(v, a, b, tinylora_projection(len(v), len(a), seed) if p is None else p)


def _tying(fields: Fields) -> float:
    value = fields.get("weight_tying", 0.0)
    if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]
        raise AdapterRefused(
            f"weight_tying is {quoted(value)}; use a number from 0 to 1.", "weight_tying"
        )
    return float(value)  # type: ignore[arg-type]


TINYLORA = Family(
    name="tinylora",
    title="TinyLoRA",
    peft_type="TINYLORA",
    status="served",
    formula="y = W x + b + B (sum_i v_i P_i) A x",
    lowering="a = (sum_i v_i P_i) A, b = B; A and B from the file, P too or drawn again",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2602.04118",
    keys=product_keys(
        {"r", "bias", "u", "weight_tying", "projection_seed", "save_projection"},
        {"init_v_bound", "tinylora_dropout"},
    ),
    plan=plan_tinylora,
)
