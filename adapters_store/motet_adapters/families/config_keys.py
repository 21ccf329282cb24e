"""Which keys of adapter_config.json a family reads: every key is served, harmless or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from motet_adapters.config_fields import Fields
from motet_adapters.errors import AdapterRefused
from motet_adapters.file_kinds import CONFIG_FILE
from motet_adapters.names import listed

COMMON = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "peft_version",
        "inference_mode",
    }
)
"""Notes in every config that PEFT writes, without influence on what an adapter computes."""

TARGETS = frozenset(
    {
        "peft_type",
        "task_type",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    }
)
"""Keys that say which modules were trained, read by `Fields.targets`, and what of every config
`find_family` reads."""


@dataclass(frozen=True)
class ConfigKeys:
    """Three lists without a key in common. A key in none of them is refused."""

    served: frozenset[str]
    harmless: frozenset[str] = COMMON
    """Without influence on what a loaded adapter computes, whatever they hold."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Keys that change the computation in a way not served, and what to do instead. They may be
    present with an empty value, as PEFT writes them."""

    def require_known(self, fields: Fields) -> None:
        """Raises AdapterRefused for what is refused or unknown."""
        for key, fix in self.refused.items():
            if is_set(fields, key):
                raise AdapterRefused(f"{key} is set: {fix}.", key)
        unknown = [key for key in fields if key not in self._known()]
        if unknown:
            raise AdapterRefused(
                f"{CONFIG_FILE} has keys this server does not know: {listed(unknown)}. An unknown "
                "key may change what the adapter computes. Save with PEFT 0.21, or remove the "
                "keys if they are only notes.",
                CONFIG_FILE,
            )

    def _known(self) -> frozenset[str]:
        return self.served | self.harmless | self.refused.keys()


def is_set(fields: Fields, key: str) -> bool:
    """Whether a key holds anything. {} is not off: PEFT makes a config of its defaults of it."""
    value = fields.get(key)
    return not (value is None or value is False or value == [])


def require_causal(fields: Fields, what: str) -> None:
    """Raises AdapterRefused without a task_type: then PEFT leaves `what` out and answers as the
    base does. (`read_config` refuses other tasks.)"""
    if fields.get("task_type") is None:
        raise AdapterRefused(
            f"task_type is missing, without which PEFT leaves {what} out. Set it to CAUSAL_LM if "
            "the adapter was trained so.",
            "task_type",
        )
