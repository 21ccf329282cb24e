"""BEFT (arXiv 2509.15974): a bias, and nothing else."""

from collections.abc import Mapping

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.combined import combined
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import key, linears_of, product_keys
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor


def plan_beft(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, _limits: Limits
) -> AdapterPlan:
    def site(module: str) -> SitePlan:
        n, name = base.shape(module)[0], key(module, "beft_bias")

        def lower(read: Read) -> dict[str, Tensor]:
            return {"bias": read(name).flatten()}

        return SitePlan(module, {name: (1, n)}, {"bias": PartSpec((n,))}, lower)

    modules = linears_of(fields, tensors, base)
    return AdapterPlan("beft", combined(map(site, modules), base))


BEFT = Family(
    name="beft",
    title="BEFT",
    peft_type="BEFT",
    status="served",
    formula="y = W x + b + d",
    lowering="bias = d",
    rank_after="0",
    memory="N",
    paper_url="https://arxiv.org/abs/2509.15974",
    keys=product_keys(set(), set()),
    plan=plan_beft,
)
