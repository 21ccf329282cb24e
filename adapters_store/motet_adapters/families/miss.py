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
from motet_adapters.families.plan import AdapterPlan
from motet_adapters.families.product_sites import linears_of, product_keys, product_site
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor


def plan_miss(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = fields.integer(fields.get("r", 64), "r", 1, limits.max_rank)
    variant = fields.get("init_weights", True)
    if not isinstance(variant, bool) and variant != "mini":
        raise AdapterRefused(
            f"init_weights={quoted(variant)} is not served: train MiSS with init_weights true or "
            "'mini'.",
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
)
