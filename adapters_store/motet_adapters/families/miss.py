"""MiSS (arXiv 2409.15371): one block, repeated over the inputs."""

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
from motet_adapters.families.product_sites import linears_of, product_keys, product_site
from motet_adapters.families.update_sites import FOLDS_EXACTLY, lossy_rank, update_site
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor

_OTHERWISE = (
    "train MiSS with init_weights true or 'mini', or upload 'bat' with lossy=true (and rank=...) "
    "to have its update cut to a product"
)


def plan_miss(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = fields.integer(fields.get("r", 64), "r", 1, limits.max_rank)
    variant = fields.get("init_weights", True)
    if not isinstance(variant, bool) and variant != "mini":
        raise AdapterRefused(
            f"init_weights={quoted(variant)} is not served: {_OTHERWISE}.",
            "init_weights",
        )
    mini = None
    if variant == "mini":
        mini = fields.integer(fields.get("mini_r", 1), "mini_r", 1, 1 << 30)
    modules = linears_of(fields, tensors, base)
    for module in modules:
        _require_fit(base.shape(module), rank, mini, module)
    return AdapterPlan(
        "miss",
        tuple(
            product_site(
                base,
                module,
                rank,
                {"miss_block": (rank, mini or base.shape(module)[0])},
                partial(miss_factors, base.shape(module)),
            )
            for module in modules
        ),
    )


def convert_miss(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """Of the variant "bat", whose update mixes the block with the weight."""
    require_no_bias(fields)
    if fields.get("init_weights") != "bat":
        raise AdapterRefused(f"This MiSS {FOLDS_EXACTLY}", "lossy")
    r = fields.integer(fields.get("r", 64), "r", 1, limits.max_rank)
    rank = lossy_rank(fields, limits)

    def site(module: str) -> SitePlan:
        n, k = base.shape(module)
        if n % r or k % r:
            raise AdapterRefused(f"r={r} does not divide the shape {[n, k]} of {module}.", "r")

        def update(block: Tensor) -> Tensor:
            return bat_update(base.weight(module), block)

        return update_site(base, module, rank, {"miss_block": (n // r, r, r)}, update)

    return AdapterPlan("miss-bat", tuple(map(site, linears_of(fields, tensors, base))))


def bat_update(weight: Tensor, block: Tensor) -> Tensor:
    """W_ij D_i + D_i for each block W_ij [r, r] of the weight [N, K]. block (D) [N/r, r, r]."""
    r = block.shape[1]
    blocks = weight.reshape(len(block), r, -1, r).permute(2, 0, 1, 3)
    return (blocks @ block + block).permute(1, 2, 0, 3).reshape(weight.shape)


def miss_factors(shape: tuple[int, int], block: Tensor) -> tuple[Tensor, Tensor]:
    """Column j of B A is row j mod r of the block.

    shape (N, K); block [r, N], or [r, n] with n a divisor of N ("mini"), repeated over the outputs.
    """
    (n, k), r = shape, len(block)
    a = torch.eye(r).repeat(1, -(-k // r))[:, :k]
    return a, block.repeat(1, n // block.shape[1]).t()


def _require_fit(shape: tuple[int, int], rank: int, mini: int | None, module: str) -> None:
    if rank > shape[1] or (mini is not None and shape[0] % mini):
        raise AdapterRefused(
            f"r={rank} with mini_r={mini} does not fit {module} of shape {list(shape)}: r is at "
            "most its inputs, and mini_r divides its outputs. Correct them to what was trained.",
            "r" if rank > shape[1] else "mini_r",
        )


MISS = Family(
    name="miss",
    title="MiSS",
    peft_type="MISS",
    status="served",
    formula="y = W x + b + D^T sum_g x_g, over the blocks x_g of r inputs",
    lowering="a[i, j] = 1 where j mod r = i, b = D^T",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2409.15371",
    keys=product_keys({"r", "bias", "init_weights", "mini_r"}, {"miss_dropout"}),
    plan=plan_miss,
    convert=convert_miss,
)
