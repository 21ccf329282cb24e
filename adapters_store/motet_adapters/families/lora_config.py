"""A LORA config as settings: PEFT 0.21's LoraConfig and what its earlier versions wrote."""

import math
from dataclasses import dataclass

from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.families.config_keys import COMMON, TARGETS, ConfigKeys
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
    },
    harmless=COMMON
    | {
        "lora_dropout",
        "megatron_core",
        "qalora_group_size",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "runtime_config",
        "ensure_weight_tying",
        "merge_weights",
    },
    refused={
        "modules_to_save": (
            "whole modules trained beside the adapter are not served; train without modules_to_save"
        ),
        "trainable_token_indices": (
            "trained token embeddings are not served; train without trainable_token_indices"
        ),
        "target_parameters": (
            "adapters on bare parameters are not served; target linear modules by target_modules"
        ),
        "layer_replication": ("replicated layers are not served; train on the base's own layers"),
        "megatron_config": (
            "Megatron's parallel linears are not served; train without megatron_config"
        ),
        "alora_invocation_tokens": "activated LoRA (aLoRA) is not served; train without it",
        "kasa_config": "KaSA changes the base weight; convert it to plain LoRA or train without it",
        "monteclora_config": "MonteCLoRA is not served; train without monteclora_config",
        "use_bdlora": "block-diagonal LoRA (BD-LoRA) is not served; train without use_bdlora",
        "arrow_config": "Arrow routing is not served; upload the routed adapters one by one",
        "use_qalora": "QA-LoRA is not served; train without use_qalora",
        "lora_bias": "a bias beside lora_B is not served; train with lora_bias=False",
        "fan_in_fan_out": (
            "transposed weights (Conv1D) are not served; train with fan_in_fan_out=False on linears"
        ),
        "enable_lora": (
            "merged linears of old PEFT versions are not served; train with a current PEFT"
        ),
    },
)

_HARMLESS_INITS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_MUTATING_INITS = ("pissa", "olora", "milora", "corda", "lora_ga")
_MAX_ALPHA = 1e9  # far above any in use; keeps the scale finite in float32


@dataclass(frozen=True)
class LoraSettings:
    """What a LoRA or DoRA config says about the computation, and nothing else."""

    rank: int
    alpha: float
    use_rslora: bool
    use_dora: bool
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
    _require_plain_init(fields.get("init_lora_weights", True))
    if fields.get("bias", "none") != "none":
        raise AdapterRefused(
            f"bias={quoted(fields.get('bias'))} is not served: train with bias='none'.", "bias"
        )

    def rank(value: object, param: str) -> int:
        return fields.integer(value, param, 1, limits.max_rank)

    def alpha(value: object, param: str) -> float:
        return fields.positive(value, param, _MAX_ALPHA)

    return LoraSettings(
        rank=rank(fields.get("r", 8), "r"),
        alpha=alpha(fields.get("lora_alpha", 8), "lora_alpha"),
        use_rslora=fields.flag("use_rslora"),
        use_dora=fields.flag("use_dora"),
        targets=fields.targets(),
        rank_pattern=fields.pattern("rank_pattern", rank),
        alpha_pattern=fields.pattern("alpha_pattern", alpha),
    )


def _require_plain_init(init: object) -> None:
    if isinstance(init, bool):
        return
    name = init.lower() if isinstance(init, str) else ""
    if name in _HARMLESS_INITS:
        return
    if name.startswith(_MUTATING_INITS):
        raise AdapterRefused(
            f"init_lora_weights={quoted(init)} changed the base weight in training, so the "
            "adapter is only right on that base. Convert it to plain LoRA: model.save_pretrained("
            "directory, path_initial_model_for_weight_conversion=...).",
            "init_lora_weights",
        )
    if name == "loftq":
        raise AdapterRefused(
            "init_lora_weights='loftq' was trained on a base that LoftQ quantised itself. Start "
            "from the NF4 base with peft.replace_lora_weights_loftq instead.",
            "init_lora_weights",
        )
    raise AdapterRefused(
        f"init_lora_weights={quoted(init)} is not known. Use true or 'gaussian' if the base "
        "weights were left as they are.",
        "init_lora_weights",
    )
