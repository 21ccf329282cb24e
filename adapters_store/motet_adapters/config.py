"""adapter_config.json, read strictly: every key is served, known to be harmless, or refused.

The keys are those of PEFT 0.21's LoraConfig and the few that its earlier versions wrote.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.file_kinds import CONFIG_FILE
from motet_adapters.json_document import parse_object
from motet_adapters.limits import Limits
from motet_adapters.names import listed, quoted
from motet_adapters.patterns import Pattern
from motet_adapters.targets import TargetSpec

# Keys without influence on what a loaded adapter computes, whatever they hold.
_HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "peft_version",
        "inference_mode",
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
    }
)

# Keys that change the computation in a way not served, and what to do instead. They may be
# present with an empty value, as PEFT writes them.
_NOT_SERVED: Mapping[str, str] = {
    "modules_to_save": (
        "whole modules trained beside the adapter are not served; train without modules_to_save"
    ),
    "trainable_token_indices": (
        "trained token embeddings are not served; train without trainable_token_indices"
    ),
    "target_parameters": (
        "adapters on bare parameters are not served; target linear modules by target_modules"
    ),
    "layer_replication": "replicated layers are not served; train on the base's own layers",
    "megatron_config": "Megatron's parallel linears are not served; train without megatron_config",
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
    "enable_lora": "merged linears of old PEFT versions are not served; train with a current PEFT",
}

_SERVED = frozenset(
    {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "bias",
        "use_rslora",
        "use_dora",
        "init_lora_weights",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
    }
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


def parse_config(text: bytes, limits: Limits) -> LoraSettings:
    """Raises AdapterRefused, with the key at fault as `param`."""
    values = parse_object(text, CONFIG_FILE, CONFIG_FILE)
    _require_lora(values.get("peft_type"))
    _refuse_unserved(values)
    fields = Fields(values)
    _require_plain_init(values.get("init_lora_weights", True))
    _require_causal(values.get("task_type"))
    if values.get("bias", "none") != "none":
        raise AdapterRefused(
            f"bias={quoted(values['bias'])} is not served: train with bias='none'.", "bias"
        )

    def rank(value: object, param: str) -> int:
        return fields.integer(value, param, 1, limits.max_rank)

    def alpha(value: object, param: str) -> float:
        return fields.positive(value, param, _MAX_ALPHA)

    return LoraSettings(
        rank=rank(values.get("r", 8), "r"),
        alpha=alpha(values.get("lora_alpha", 8), "lora_alpha"),
        use_rslora=fields.flag("use_rslora"),
        use_dora=fields.flag("use_dora"),
        targets=fields.targets(),
        rank_pattern=fields.pattern("rank_pattern", rank),
        alpha_pattern=fields.pattern("alpha_pattern", alpha),
    )


def _require_lora(peft_type: object) -> None:
    if peft_type == "LORA":
        return
    if peft_type is None:
        raise AdapterRefused(
            f"{CONFIG_FILE} has no peft_type: it is not a config that PEFT wrote.", "peft_type"
        )
    raise AdapterRefused(
        f"peft_type {quoted(peft_type)} is not served. Served are LORA adapters: LoRA, rsLoRA "
        "(use_rslora) and DoRA (use_dora).",
        "peft_type",
    )


def _refuse_unserved(values: Mapping[str, object]) -> None:
    for key, fix in _NOT_SERVED.items():
        # {} is not off: PEFT makes a config with its own defaults of it.
        value = values.get(key)
        if not (value is None or value is False or value == []):
            raise AdapterRefused(f"{key} is set: {fix}.", key)
    unknown = [key for key in values if key not in _SERVED | _HARMLESS | _NOT_SERVED.keys()]
    if unknown:
        raise AdapterRefused(
            f"{CONFIG_FILE} has keys this server does not know: {listed(unknown)}. An unknown key "
            "may change what the adapter computes. Save with PEFT 0.21, or remove the keys if "
            "they are only notes.",
            CONFIG_FILE,
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


def _require_causal(task_type: object) -> None:
    if task_type not in (None, "CAUSAL_LM"):
        raise AdapterRefused(
            f"task_type {quoted(task_type)} is not served: this server generates text (CAUSAL_LM).",
            "task_type",
        )
