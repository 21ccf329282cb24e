"""LoRA (arXiv 2106.09685), rsLoRA (arXiv 2312.03732) and DoRA (arXiv 2402.09353)."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.dora import dora_gain
from motet_adapters.expansion import refuse_expression
from motet_adapters.families.config_keys import is_set
from motet_adapters.families.family import Family
from motet_adapters.families.lora_config import KEYS, LoraSettings, lora_settings
from motet_adapters.families.modules import targeted_linears
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


def plan_lora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    settings = lora_settings(fields, limits)
    if settings.targets.is_expression:
        raise refuse_expression(settings.targets, tensors, base.modules())
    modules = targeted_linears(settings.targets, base)
    return AdapterPlan(
        settings.kind, tuple(_site(settings, tensors, base, module) for module in modules)
    )


def _site(
    settings: LoraSettings, tensors: Mapping[str, StoredTensor], base: BaseWeights, module: str
) -> SitePlan:
    out_features, in_features = base.shape(module)
    rank = settings.rank_of(module)
    scale = settings.scale_of(module, rank)
    a, b = f"{KEY_PREFIX}{module}{_A}", f"{KEY_PREFIX}{module}{_B}"
    wanted: dict[str, tuple[int, ...]] = {a: (rank, in_features), b: (out_features, rank)}
    parts = {"a": PartSpec((rank, in_features)), "bt": PartSpec((rank, out_features))}
    magnitude = None
    if settings.use_dora:
        magnitude = _magnitude(module, tensors)
        wanted[magnitude] = (out_features,)
        parts["gain"] = PartSpec((out_features,))

    return SitePlan(module, wanted, parts, partial(_lower, base, module, a, b, scale, magnitude))


def _lower(
    base: BaseWeights, module: str, a: str, b: str, scale: float, magnitude: str | None, read: Read
) -> dict[str, Tensor]:
    factors = read(a), read(b) * scale
    parts = {"a": factors[0], "bt": factors[1].t()}
    if magnitude is not None:
        parts["gain"] = dora_gain(base.weight(module), *factors, read(magnitude))
    return parts


def _magnitude(module: str, tensors: Mapping[str, StoredTensor]) -> str:
    name = f"{KEY_PREFIX}{module}{_MAGNITUDE}"
    # PEFT writes the short name and loads both.
    return f"{name}.weight" if name not in tensors and f"{name}.weight" in tensors else name


DORA = Family(
    name="dora",
    title="DoRA, QDoRA",
    peft_type="LORA",
    status="served",
    formula="y = m / ||W + s B A|| * (W x + s B A x) + b",
    lowering="a = A, b = s B, gain = m / ||W + s B A|| against the weight that runs",
    rank_after="r",
    memory="r (K + N) + N",
    paper_url="https://arxiv.org/abs/2402.09353",
    keys=KEYS,
    plan=plan_lora,
    claims=lambda fields: is_set(fields, "use_dora"),
)

RSLORA = Family(
    name="rslora",
    title="rsLoRA",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + alpha / sqrt(r) B A x",
    lowering="a = A, b = alpha / sqrt(r) B",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2312.03732",
    keys=KEYS,
    plan=plan_lora,
    claims=lambda fields: is_set(fields, "use_rslora"),
)

LORA = Family(
    name="lora",
    title="LoRA",
    peft_type="LORA",
    status="served",
    formula="y = W x + b + alpha / r B A x",
    lowering="a = A, b = alpha / r B",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2106.09685",
    keys=KEYS,
    plan=plan_lora,
)
