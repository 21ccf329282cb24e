"""AdaLoRA (arXiv 2303.10512): B diag(E) A, pruned to a rank of its own on each module."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.beside import BESIDE, beside_sites
from motet_adapters.families.combined import combined
from motet_adapters.families.config_keys import TARGETS, ConfigKeys
from motet_adapters.families.family import Family
from motet_adapters.families.lora_config import KEYS as LORA_KEYS
from motet_adapters.families.lora_config import MAX_ALPHA
from motet_adapters.families.modules import targeted_linears
from motet_adapters.families.plan import AdapterPlan, PartSpec, Read, SitePlan
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.safetensors_file import StoredTensor

_SERVED = TARGETS | BESIDE | {"init_r", "lora_alpha", "rank_pattern", "fan_in_fan_out"}
# Of the schedule in training, and what PEFT writes of LoRA's config but never reads here.
_HARMLESS = LORA_KEYS.harmless | {
    *("r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
    *("total_step", "init_lora_weights", "qalora_group_size", "loftq_config", "alpha_pattern"),
}
_NO_VARIANT = "AdaLoRA does not combine with it; train without"

KEYS = ConfigKeys(
    _SERVED,
    _HARMLESS,
    {
        **LORA_KEYS.refused,
        **dict.fromkeys(LORA_KEYS.served - _SERVED - _HARMLESS, _NO_VARIANT),
    },
)

_EPSILON = 1e-5  # PEFT divides by ranknum + this


def plan_adalora(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """s = alpha / init_r whatever is left of the rank. The saved tensors are pruned already."""
    rank = fields.integer(fields.get("init_r", 12), "init_r", 1, limits.max_rank)
    alpha = fields.positive(fields.get("lora_alpha", 8), "lora_alpha", MAX_ALPHA)
    fields.flag("fan_in_fan_out")
    kept = _kept(fields.get("rank_pattern"), rank)
    targets = targeted_linears(fields.targets(), base, tensors)
    foreign = [path for path in kept if path not in targets]
    if foreign:
        raise AdapterRefused(
            f"rank_pattern names {quoted(foreign[0])}, which target_modules does not. Correct "
            "either to what was trained.",
            "rank_pattern",
        )
    scale = alpha / (rank + _EPSILON)
    sites = [_site(path, kept.get(path, rank), scale, base) for path in targets]
    sites += beside_sites(fields, targets, tensors, base)
    return AdapterPlan("adalora", combined(sites, base))


def _kept(pattern: object, rank: int) -> dict[str, int]:
    """Ranks by path: rank_pattern holds, for each module, which of its init_r were kept."""
    if pattern is None:
        return {}
    if not isinstance(pattern, Mapping):
        raise AdapterRefused(f"rank_pattern is {quoted(pattern)}; use an object.", "rank_pattern")
    found = {}
    for name, mask in pattern.items():
        is_mask = isinstance(mask, list) and all(isinstance(one, bool) for one in mask)
        if not is_mask or len(mask) != rank or not name.endswith(".lora_E"):
            raise AdapterRefused(
                f"rank_pattern gives {quoted(name)} something else than which of its {rank} ranks "
                "were kept. Upload the file as PEFT wrote it.",
                "rank_pattern",
            )
        found[name.removesuffix(".lora_E")] = sum(mask)
    return found


def _site(path: str, rank: int, scale: float, base: BaseWeights) -> SitePlan:
    out_features, in_features = base.shape(path)
    names = {part: f"{KEY_PREFIX}{path}.lora_{part}" for part in "ABE"}
    tensors = {
        names["A"]: (rank, in_features),
        names["B"]: (out_features, rank),
        names["E"]: (rank, 1),
    }
    parts = {"a": PartSpec((rank, in_features)), "bt": PartSpec((rank, out_features))}
    return SitePlan(path, tensors, parts, partial(_lower, names, scale))


def _lower(names: Mapping[str, str], scale: float, read: Read) -> dict[str, Tensor]:
    return {"a": read(names["A"]) * read(names["E"]), "bt": (read(names["B"]) * scale).t()}


ADALORA = Family(
    name="adalora",
    title="AdaLoRA",
    peft_type="ADALORA",
    status="served",
    formula="y = W x + b + alpha / (init_r + 1e-5) B diag(E) A x",
    lowering="a = diag(E) A, b = alpha / (init_r + 1e-5) B",
    rank_after="what pruning left of init_r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2303.10512",
    keys=KEYS,
    plan=plan_adalora,
)
