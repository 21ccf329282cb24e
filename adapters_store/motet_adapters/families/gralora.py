"""GraLoRA (arXiv 2505.20355): the weight in k x k blocks, each with its own low-rank update."""

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
from motet_adapters.families.product_sites import MAX_ALPHA, linears_of, product_keys, product_site
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor


def plan_gralora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    r = fields.integer(fields.get("r", 32), "r", 1, limits.max_rank)
    hybrid = fields.integer(fields.get("hybrid_r", 0), "hybrid_r", 0, limits.max_rank)
    blocks = fields.integer(fields.get("gralora_k", 2), "gralora_k", 1, limits.max_rank)
    scale = fields.positive(fields.get("alpha", 64), "alpha", MAX_ALPHA) / (r + hybrid)
    if r % blocks:
        raise AdapterRefused(f"gralora_k={blocks} does not divide r={r}.", "gralora_k")

    def site(module: str) -> SitePlan:
        n, k = base.shape(module)
        if n % blocks or k % blocks:
            raise AdapterRefused(
                f"gralora_k={blocks} does not divide the shape {[n, k]} of {module}. Correct it "
                "to what was trained.",
                "gralora_k",
            )
        shapes: dict[str, tuple[int, ...]] = {
            "gralora_A": (blocks, k // blocks, r),
            "gralora_B": (blocks, r, n // blocks),
        }
        if hybrid:
            shapes |= {
                "gralora_A_general.weight": (hybrid, k),
                "gralora_B_general.weight": (n, hybrid),
            }
        rank = blocks * r + hybrid
        return product_site(base, module, rank, shapes, partial(gralora_factors, scale))

    return AdapterPlan(
        "gralora", tuple(site(module) for module in linears_of(fields, tensors, base))
    )


def gralora_factors(
    scale: float,
    a: Tensor,
    b: Tensor,
    general_a: Tensor | None = None,
    general_b: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The blocks' updates as one product, A's rows ordered by input block, then output block.

    a [k, K/k, r], b [k, r, N/k]; block (j, i) of the update, from inputs i to outputs j, is the
    product of the r/k columns of b[j] and a[i] that belong to both. general_a [h, K] and general_b
    [N, h]: a plain LoRA beside them (hybrid_r).
    """
    blocks, inputs, r = a.shape
    outputs, share = b.shape[2], r // blocks
    wide_a = torch.zeros(blocks, blocks, share, blocks, inputs)
    wide_b = torch.zeros(blocks, outputs, blocks, blocks, share)
    for i in range(blocks):
        wide_a[i, :, :, i] = a[i].t().reshape(blocks, share, inputs)
        wide_b[i, :, :, i] = b[i].reshape(blocks, share, outputs).permute(2, 0, 1)
    factors = [wide_a.reshape(blocks * r, -1)], [wide_b.reshape(-1, blocks * r)]
    if general_a is not None and general_b is not None:
        factors[0].append(general_a)
        factors[1].append(general_b)
    return torch.cat(factors[0]), torch.cat(factors[1], dim=1) * scale


GRALORA = Family(
    name="gralora",
    title="GraLoRA",
    peft_type="GRALORA",
    status="served",
    formula="y = W x + b + s [B_ji A_ji] x, k x k blocks of rank r / k, s = alpha / (r + h)",
    lowering="a, b hold the blocks' factors, zeros elsewhere; hybrid_r of plain LoRA after them",
    rank_after="k r + h",
    memory="(k r + h) (K + N)",
    paper_url="https://arxiv.org/abs/2505.20355",
    keys=product_keys({"r", "bias", "alpha", "gralora_k", "hybrid_r"}, {"gralora_dropout"}),
    plan=plan_gralora,
)
