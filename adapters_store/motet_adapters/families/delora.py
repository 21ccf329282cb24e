"""DeLoRA (arXiv 2503.18225): strength and direction of each rank-one update apart."""

from collections.abc import Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.biases import require_no_bias
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, SitePlan
from motet_adapters.families.product_sites import linears_of, product_keys, product_site
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_SMALLEST_NORM = 1e-4  # PEFT 0.21 divides by no less


def plan_delora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)

    def rank(value: object, param: str) -> int:
        return fields.integer(value, param, 1, limits.max_rank)

    default, pattern = rank(fields.get("r", 8), "r"), fields.pattern("rank_pattern", rank)

    def site(module: str) -> SitePlan:
        (n, k), r = base.shape(module), pattern.find(module, default)
        shapes = {
            "delora_A": (r, k),
            "delora_B": (n, r),
            "delora_lambda": (1,),
            "delora_w_norm": (k,),
        }
        return product_site(base, module, r, shapes, delora_factors)

    return AdapterPlan(
        "delora", tuple(site(module) for module in linears_of(fields, tensors, base))
    )


def delora_factors(
    a: Tensor, b: Tensor, strength: Tensor, weight_norm: Tensor
) -> tuple[Tensor, Tensor]:
    """lambda / r sum_i b_i a_i^T / (|a_i| |b_i|) diag(weight_norm), as B A.

    a [r, K], b [N, r], strength (lambda) [1], weight_norm [K]: the norms of the weight's columns
    when the training began, which the file holds.
    """
    norms = a.norm(dim=1).clamp_min(_SMALLEST_NORM) * b.norm(dim=0).clamp_min(_SMALLEST_NORM)
    return a * weight_norm, b * (strength / len(a) / norms)


DELORA = Family(
    name="delora",
    title="DeLoRA",
    peft_type="DELORA",
    status="served",
    formula="y = W x + b + lambda / r sum_i b_i a_i^T / (|a_i| |b_i|) (w * x)",
    lowering="a = A diag(w), b = lambda / r B diag(1 / (|a_i| |b_i|))",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2503.18225",
    # What delora_lambda began as; what it became is in the file.
    keys=product_keys(
        {"r", "bias", "rank_pattern"}, {"delora_lambda", "lambda_pattern", "module_dropout"}
    ),
    plan=plan_delora,
)
