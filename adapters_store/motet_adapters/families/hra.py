"""HRA (arXiv 2405.17484): the weight times a chain of Householder reflections."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.biases import require_no_bias
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan
from motet_adapters.families.product_sites import linears_of, product_keys, product_site
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor


def plan_hra(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    rank = fields.integer(fields.get("r", 8), "r", 1, limits.max_rank)
    orthogonal = fields.flag("apply_GS")

    def factors(module: str, u: Tensor) -> tuple[Tensor, Tensor]:
        return hra_factors(base.weight(module), u, orthogonal=orthogonal)

    return AdapterPlan(
        "hra",
        tuple(
            product_site(
                base,
                module,
                rank,
                {"hra_u": (base.shape(module)[1], rank)},
                partial(factors, module),
            )
            for module in linears_of(fields, tensors, base)
        ),
    )


def hra_factors(weight: Tensor, u: Tensor, *, orthogonal: bool) -> tuple[Tensor, Tensor]:
    """W H_1 ... H_r - W as B A, with H_i = I - 2 u_i u_i^T of unit u_i.

    weight [N, K], the one that really runs; u [K, r]. orthogonal: u is orthonormalised first
    (apply_GS). The chain is I - U T U^T with T upper triangular, the compact WY form (Schreiber
    and Van Loan, 1989); T is the inverse of the upper triangle of U^T U with its diagonal halved.
    """
    u = u.double()
    # QR is Gram-Schmidt but for signs, which cancel.
    u = torch.linalg.qr(u).Q if orthogonal else u / u.norm(dim=0)
    gram = u.t() @ u
    inverse = gram.triu(1) + 0.5 * torch.eye(len(gram), dtype=gram.dtype)
    t = torch.linalg.solve_triangular(inverse, torch.eye(len(gram), dtype=gram.dtype), upper=True)
    return (t @ u.t()).float(), -(weight @ u.float())


HRA = Family(
    name="hra",
    title="HRA",
    peft_type="HRA",
    status="served",
    formula="y = W H_1 ... H_r x + b, H_i = I - 2 u_i u_i^T",
    lowering="compact WY form: a = T U^T, b = -W U against the weight that runs",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2405.17484",
    keys=product_keys({"r", "bias", "apply_GS"}, set()),
    plan=plan_hra,
)
