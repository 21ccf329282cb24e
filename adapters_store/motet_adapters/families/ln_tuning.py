"""LN tuning (arXiv 2312.11420): the weights of norms, trained."""

from collections.abc import Mapping

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.families.beside import beside_sites
from motet_adapters.families.combined import combined
from motet_adapters.families.config_keys import COMMON, TARGETS, ConfigKeys
from motet_adapters.families.family import Family
from motet_adapters.families.modules import targeted_modules
from motet_adapters.families.plan import AdapterPlan
from motet_adapters.families.saved_modules import norm_site
from motet_adapters.key_hints import KEY_PREFIX
from motet_adapters.limits import Limits
from motet_adapters.safetensors_file import StoredTensor

KEYS = ConfigKeys(served=TARGETS | {"modules_to_save"}, harmless=COMMON)


def plan_ln_tuning(
    fields: Fields, tensors: Mapping[str, StoredTensor], base: BaseWeights, limits: Limits
) -> AdapterPlan:
    """Norms that are nothing but a weight; PEFT saves it as MODULE.ln_tuning_layers.weight."""
    del limits
    targets = targeted_modules(fields.targets(), (), tensors, tuple(base.norms()))
    sites = [
        norm_site(path, f"{KEY_PREFIX}{path}.ln_tuning_layers.weight", base) for path in targets
    ]
    sites += beside_sites(fields, (), tensors, base)
    return AdapterPlan("ln_tuning", combined(sites, base))


LN_TUNING = Family(
    name="ln_tuning",
    title="LN tuning",
    peft_type="LN_TUNING",
    status="served",
    formula="norm(x) with the trained weight in place of the base's",
    lowering="the norm's weight, per adapter",
    rank_after="none",
    memory="D for each norm",
    paper_url="https://arxiv.org/abs/2312.11420",
    keys=KEYS,
    plan=plan_ln_tuning,
)
