"""LoHa (FedPara, arXiv 2108.06098): the elementwise product of two products."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.family import Family
from motet_adapters.families.lycoris_config import LYCORIS_HARMLESS, LYCORIS_SERVED, lycoris
from motet_adapters.families.plan import AdapterPlan
from motet_adapters.families.product_sites import linears_of, product_keys, product_site
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor


def plan_loha(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    settings = lycoris(fields, limits)

    def shapes(module: str) -> dict[str, tuple[int, ...]]:
        (n, k), r = base.shape(module), settings.rank_of(module)
        return {
            "hada_w1_a": (n, r),
            "hada_w1_b": (r, k),
            "hada_w2_a": (n, r),
            "hada_w2_b": (r, k),
        }

    return AdapterPlan(
        "loha",
        tuple(
            product_site(
                base,
                module,
                settings.rank_of(module) ** 2,
                shapes(module),
                partial(loha_factors, settings.scale_of(module)),
            )
            for module in linears_of(fields, tensors, base)
        ),
    )


def loha_factors(
    scale: float, w1_a: Tensor, w1_b: Tensor, w2_a: Tensor, w2_b: Tensor
) -> tuple[Tensor, Tensor]:
    """scale (w1_a w1_b) * (w2_a w2_b), elementwise, as B A of rank r^2.

    w1_a, w2_a [N, r], w1_b, w2_b [r, K]. The elementwise product of two matrices of rank r is the
    product of the row-wise and the column-wise Khatri-Rao products of their factors.
    """
    b = (w1_a[:, :, None] * w2_a[:, None, :]).flatten(1)
    a = (w1_b[:, None, :] * w2_b[None, :, :]).flatten(0, 1)
    return a, b * scale


LOHA = Family(
    name="loha",
    title="LoHa",
    peft_type="LOHA",
    status="served",
    formula="y = W x + b + alpha / r ((w1a w1b) * (w2a w2b)) x, * elementwise",
    lowering="Khatri-Rao products: a = w1b (.) w2b, b = alpha / r w1a (.) w2a",
    rank_after="r^2",
    memory="r^2 (K + N)",
    paper_url="https://arxiv.org/abs/2108.06098",
    keys=product_keys(LYCORIS_SERVED, LYCORIS_HARMLESS),
    plan=plan_loha,
)
