"""LoRA-XS (arXiv 2405.17604), as its repository saves it: frozen A and B, a small R between them.

The files of github.com/MohammadrezaBanaei/LoRA-XS are PEFT's of a LoRA, with a tensor
lora_latent_mapping [r, r] beside each lora_A and lora_B. A and B come of an SVD of the weight, so
all adapters trained on one machine from one base have the same; they are taken from the file,
because another machine's SVD may differ by signs, which R would have to follow.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.cores import COLUMNS, VALUES, columns_part, dense_columns
from motet_adapters.families.family import Family
from motet_adapters.families.lora_config import lora_settings
from motet_adapters.families.lora_like import lora_like_keys
from motet_adapters.families.plan import AdapterPlan, BasisPlan, PartSpec, Read, SitePlan
from motet_adapters.families.product_sites import key, linears_of
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

MARK = "lora_latent_mapping.weight"
_NAMES = (f".default_{MARK}", f"_{MARK}")  # the second is what PEFT's save_pretrained makes of it


def plan_lora_xs(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    settings = lora_settings(fields, limits)
    sites, bases = [], {}
    for module in linears_of(fields, tensors, base):
        (n, k), r = base.shape(module), settings.rank_of(module)
        a, b, core = (
            key(module, "lora_A.weight"),
            key(module, "lora_B.weight"),
            _core(module, tensors),
        )
        bases[module] = BasisPlan(
            {"a": PartSpec((r, k)), "bt": PartSpec((r, n)), COLUMNS: columns_part(r, r)},
            partial(_make, a, b),
            tensors={a: (r, k), b: (n, r)},
        )
        sites.append(
            SitePlan(
                module,
                {core: (r, r)},
                {VALUES: PartSpec((r, r))},
                partial(_lower, core, settings.scale_of(module, r)),
                bases={part: (module, part) for part in ("a", "bt", COLUMNS)},
            )
        )
    return AdapterPlan("lora-xs", tuple(sites), bases)


def _core(module: str, tensors: Mapping[str, StoredTensor]) -> str:
    prefix = key(module, "")[:-1]
    return next((f"{prefix}{n}" for n in _NAMES if f"{prefix}{n}" in tensors), prefix + _NAMES[1])


def _make(a: str, b: str, read: Read) -> dict[str, Tensor]:
    lora_a = read(a)
    return {"a": lora_a, "bt": read(b).t(), COLUMNS: dense_columns(len(lora_a))}


def _lower(core: str, scale: float, read: Read) -> dict[str, Tensor]:
    return {VALUES: read(core) * scale}


LORA_XS = Family(
    name="lora-xs",
    title="LoRA-XS",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + alpha / r B R A x, A and B of an SVD of W, frozen",
    lowering="A and B of the file are a basis shared by all adapters with the same; the core is "
    "alpha / r R",
    rank_after="r, shared",
    memory="r^2 a module; r (K + N) once",
    paper_url="https://arxiv.org/abs/2405.17604",
    keys=lora_like_keys("LoRA-XS"),
    plan=plan_lora_xs,
    marker=MARK,
)
