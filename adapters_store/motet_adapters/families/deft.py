"""DEFT and PaRa, as PEFT 0.21 has them: a part of the output space taken away and filled anew."""

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
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor


def plan_deft(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    require_no_bias(fields)
    default = fields.integer(fields.get("r", 8), "r", 1, limits.max_rank)
    method = fields.get("decomposition_method", "relu")
    if method not in ("relu", "qr"):
        raise AdapterRefused(
            f"decomposition_method={quoted(method)} is not known: it is 'relu' or 'qr'.",
            "decomposition_method",
        )
    alpha = fields.get("alpha")
    alpha = fields.positive(alpha, "alpha", MAX_ALPHA) if alpha else None
    removes_only = fields.flag("para")

    def factors(module: str, p: Tensor, r: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale = 1.0 if alpha is None else alpha / p.shape[1]
        injected = None if r is None else r * scale
        return deft_factors(base.weight(module), p, injected, orthogonal=method == "qr")

    def site(module: str) -> SitePlan:
        n, k = base.shape(module)
        rank = min(default, n)
        shapes = {"deft_P": (n, rank)} | ({} if removes_only else {"deft_R": (rank, k)})
        return product_site(base, module, rank, shapes, partial(factors, module))

    return AdapterPlan("deft", tuple(site(module) for module in linears_of(fields, tensors, base)))


def deft_factors(
    weight: Tensor, p: Tensor, injected: Tensor | None, *, orthogonal: bool
) -> tuple[Tensor, Tensor]:
    """Q (R - P'^T W) as B A, with Q = P, P' = relu(P), or Q = P' = qr(P).

    weight [N, K], the one that really runs; p [N, r]; injected (R) [r, K], None for PaRa.
    """
    q, right = (torch.linalg.qr(p).Q,) * 2 if orthogonal else (p, p.relu())
    removed = right.t() @ weight
    return -removed if injected is None else injected - removed, q


DEFT = Family(
    name="deft",
    title="DEFT, PaRa",
    peft_type="DEFT",
    status="served",
    formula="y = (I - P relu(P)^T) W x + s P R x + b, or with Q of qr(P) for both",
    lowering="a = s R - relu(P)^T W against the weight that runs, b = P",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://huggingface.co/docs/peft/main/package_reference/deft",
    keys=product_keys(
        {"r", "bias", "decomposition_method", "alpha", "para"}, {"init_scale", "deft_dropout"}
    ),
    plan=plan_deft,
)
