"""A LORA config as settings: PEFT 0.21's LoraConfig and what its earlier versions wrote."""

import math
from dataclasses import dataclass

from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.beside import bias_mode
from motet_adapters.families.config_keys import COMMON, TARGETS, ConfigKeys, is_set
from motet_adapters.limits import Limits
from motet_adapters.names import quoted
from motet_adapters.patterns import Pattern
from motet_adapters.targets import TargetSpec

KEYS = ConfigKeys(
    served=TARGETS
    | {
        "r",
        "lora_alpha",
        "bias",
        "use_rslora",
        "use_dora",
        "init_lora_weights",
        "rank_pattern",
        "alpha_pattern",
        "fan_in_fan_out",
        "lora_bias",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "ensure_weight_tying",
        "alora_invocation_tokens",
        "use_qalora",
        "qalora_group_size",
        "use_bdlora",
        "kasa_config",
        "loftq_config",
        "velora_config",
    },
    harmless=COMMON
    | {
        "lora_dropout",
        "megatron_core",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "runtime_config",
        "merge_weights",
    },
    refused={
        "layer_replication": ("replicated layers are not served; train on the base's own layers"),
        "megatron_config": (
            "Megatron's parallel linears are not served; train without megatron_config"
        ),
        "monteclora_config": "MonteCLoRA is not served; train without monteclora_config",
        "arrow_config": "Arrow routing is not served; upload the routed adapters one by one",
        "enable_lora": (
            "merged linears of old PEFT versions are not served; train with a current PEFT"
        ),
    },
)

MAX_ALPHA = 1e9
"""Far above any in use; keeps the scale finite in float32."""

PLAIN_INITS = frozenset({"", "gaussian", "eva", "orthogonal", "mica"})
"""init_lora_weights that left the base weight as it was."""

# Of the LORA families these change the computation, and PEFT lets at most one of them be.
_VARIANTS = ("use_dora", "use_qalora", "use_bdlora", "kasa_config", "alora_invocation_tokens")


@dataclass(frozen=True)
class LoraSettings:
    """What a config of the LORA families says about the computation, and nothing else."""

    rank: int
    alpha: float
    use_rslora: bool
    use_dora: bool
    lora_bias: bool
    bias: str  # "none", "all" or "lora_only"
    init: str  # init_lora_weights in lower case; "": true or false
    targets: TargetSpec
    rank_pattern: Pattern[int]
    alpha_pattern: Pattern[float]

    @property
    def kind(self) -> str:
        if self.use_dora:
            return "dora"
        return "rslora" if self.use_rslora else "lora"

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.find(module, self.rank)

    def scale_of(self, module: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv 2312.03732)."""
        alpha = self.alpha_pattern.find(module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def lora_settings(fields: Fields, limits: Limits) -> LoraSettings:
    """Raises AdapterRefused, with the key at fault as `param`."""
    _require_one_variant(fields)
    # PEFT itself clears it for linears, whose weights lie as ours do.
    fields.flag("fan_in_fan_out")

    def rank(value: object, param: str) -> int:
        return fields.integer(value, param, 1, limits.max_rank)

    def alpha(value: object, param: str) -> float:
        return fields.positive(value, param, MAX_ALPHA)

    return LoraSettings(
        rank=rank(fields.get("r", 8), "r"),
        alpha=alpha(fields.get("lora_alpha", 8), "lora_alpha"),
        use_rslora=fields.flag("use_rslora"),
        use_dora=fields.flag("use_dora"),
        lora_bias=fields.flag("lora_bias"),
        bias=bias_mode(fields),
        init=init_name(fields),
        targets=_targets(fields),
        rank_pattern=fields.pattern("rank_pattern", rank),
        alpha_pattern=fields.pattern("alpha_pattern", alpha),
    )


def _targets(fields: Fields) -> TargetSpec:
    """No modules at all are fine beside parameters."""
    if is_set(fields, "target_parameters") and not is_set(fields, "target_modules"):
        return TargetSpec()
    return fields.targets()


def require_plain(fields: Fields, what: str) -> None:
    """Raises AdapterRefused where a variant or an initialisation is set that PEFT does not know for
    `what`: only LoRA and DoRA are."""
    found = [key for key in _VARIANTS if key != "use_dora" and is_set(fields, key)]
    if init_name(fields) not in PLAIN_INITS:
        found.append("init_lora_weights")
    if found:
        raise AdapterRefused(
            f"{found[0]} is set and {what} targeted, which PEFT does not combine. Keep the one "
            "that was trained.",
            found[0],
        )


def init_name(fields: Fields) -> str:
    """init_lora_weights in lower case; "" for true and false. Raises AdapterRefused for others."""
    init = fields.get("init_lora_weights", True)
    if isinstance(init, bool):
        return ""
    if not isinstance(init, str):
        raise AdapterRefused(
            f"init_lora_weights is {quoted(init)}; use true, or the name of an initialisation.",
            "init_lora_weights",
        )
    return init.lower()


def _require_one_variant(fields: Fields) -> None:
    found = [key for key in _VARIANTS if is_set(fields, key)]
    if found and found[0] != "use_dora" and init_name(fields) not in PLAIN_INITS:
        found.append("init_lora_weights")
    if len(found) > 1:
        raise AdapterRefused(
            f"{found[0]} and {found[1]} are both set, which PEFT does not combine. Keep the one "
            "that was trained.",
            found[1],
        )
    if found and found[0] == "use_dora" and fields.flag("lora_bias"):
        raise AdapterRefused(
            "use_dora and lora_bias are both set, which PEFT does not combine. Keep the one that "
            "was trained.",
            "lora_bias",
        )
