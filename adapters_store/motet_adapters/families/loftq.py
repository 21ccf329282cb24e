"""LoftQ (arXiv 2310.08659): LoRA on a quantised base that the initialisation chose.

After one of its iterations that base is NF4(W), the one served. After more it is NF4(W - B A), and
the adapter is wrong on any other.
"""

from collections.abc import Mapping

from motet_adapters.base_weights import BaseWeights
from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.family import Family
from motet_adapters.families.lora import lora_plan
from motet_adapters.families.lora_config import KEYS, LoraSettings, init_name
from motet_adapters.families.lora_factors import MakeFactors, plain_factors

_KEY = "loftq_config"


def on_plain_nf4(fields: Fields, settings: LoraSettings, _base: BaseWeights) -> MakeFactors:
    """LoRA's factors, where the base that LoftQ made was NF4(W)."""
    config = fields.get(_KEY)
    found = config if isinstance(config, Mapping) else {}
    if (found.get("loftq_bits"), found.get("loftq_iter")) != (4, 1):
        raise AdapterRefused(
            "init_lora_weights='loftq' was trained on a base that LoftQ quantised itself, and only "
            "after one iteration at 4 bits is that the NF4 base served: loftq_config must say "
            "loftq_bits 4 and loftq_iter 1. Otherwise start from the NF4 base with "
            "peft.replace_lora_weights_loftq.",
            _KEY,
        )
    return lambda linear: plain_factors(settings, linear)


LOFTQ = Family(
    name="loftq",
    title="LoftQ, one iteration",
    peft_type="LORA",
    status="served",
    formula="y = NF4(W) x + b + s B A x",
    lowering="a = A, b = s B",
    rank_after="r",
    memory="r (K + N)",
    paper_url="https://arxiv.org/abs/2310.08659",
    keys=KEYS,
    plan=lora_plan(on_plain_nf4, "loftq"),
    param="init_lora_weights",
    claims=lambda fields: init_name(fields) == "loftq",
)
