"""SVF (Transformer-squared, arXiv 2501.06252): the singular values of the weights, each scaled.

The files of github.com/SakanaAI/self-adaptive-llms are pickles (policy_params.pt,
learnable_params.pt). Served are the same tensors as safetensors, under either's names: one vector
for each linear of the MLPs, "learnable_params_module_list.I" in the model's order, or the name of
the weight. The config is {"peft_type": "SVF", "max_mult": 1}.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.config_keys import COMMON, ConfigKeys
from motet_adapters.families.family import Family
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan, basis_tensor
from motet_adapters.families.svd_basis import (
    DIAGONAL,
    VALUES,
    VECTORS_IN,
    VECTORS_OUT,
    svd_basis,
)
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_LIST = "learnable_params_module_list."
_MAX_MULT = 1e6


def plan_svf(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, _limits: Limits
) -> AdapterPlan:
    max_mult = fields.positive(fields.get("max_mult", 1), "max_mult", _MAX_MULT)
    modules = [module for module in base.modules() if "mlp" in module]
    is_list = any(name.startswith(_LIST) for name in tensors)

    def site(index: int, module: str) -> SitePlan:
        name = f"{_LIST}{index}" if is_list else f"{module}.weight"
        rank = min(base.shape(module))
        return SitePlan(
            module,
            {name: (rank,)},
            {"core_values": PartSpec((rank, 1))},
            partial(_lower, name, module, max_mult),
            bases={
                "a": (module, VECTORS_IN),
                "bt": (module, VECTORS_OUT),
                "core_columns": (module, DIAGONAL),
            },
        )

    return AdapterPlan(
        "svf",
        tuple(site(index, module) for index, module in enumerate(modules)),
        {module: svd_basis(base, module) for module in modules},
    )


def svf_core(values: Tensor, learned: Tensor, max_mult: float) -> Tensor:
    """What is added to the singular values [R]: s m (sum s / sum s m) - s, m = sigmoid(p) max_mult.

    learned (p) [R]. The scaling keeps the sum of the singular values what it was.
    """
    scaled = values * (torch.sigmoid(learned) * max_mult)
    return scaled * (values.sum() / scaled.sum()) - values


def _lower(name: str, module: str, max_mult: float, read: Read) -> dict[str, Tensor]:
    core = svf_core(read(basis_tensor(module, VALUES)), read(name), max_mult)
    return {"core_values": core[:, None]}


SVF = Family(
    name="svf",
    title="SVF (Transformer-squared)",
    peft_type="SVF",
    status="served",
    formula="y = U diag(s m) V^T x (sum s / sum s m) + b, m = sigmoid(p) max_mult",
    lowering="U and V^T of the original weight are a basis that all tenants share; the core is "
    "diag(s m (sum s / sum s m) - s)",
    rank_after="min(N, K), shared",
    memory="min(N, K) a module; min(N, K) (K + N) once",
    paper_url="https://arxiv.org/abs/2501.06252",
    keys=ConfigKeys(served=frozenset({"peft_type", "task_type", "max_mult"}), harmless=COMMON),
    plan=plan_svf,
)
